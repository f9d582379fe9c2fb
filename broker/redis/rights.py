"""What the access control list (ACL) of a Redis server permits the user that the nodes have there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from txredisapi import RedisError

from broker.redis.script import PACKAGE, read_part

log = Logger()

INTERVAL = 60.0  # seconds between two looks, for an ACL may be changed at any time
MISSING_INTERVAL = 1.0  # the same, while something is missing
MAX_NAMED = 12  # of what is missing, in one message

# What an error says when an ACL is its reason, in a script, too, in the words of all versions.
DENIALS = ("NOPERM", "ACL failure", "The user executing the script can't")
KEYLESS = {b"TIME": (), b"PING": ()}
# Arguments after a key.  A server that can not be asked without doing it, of version 6, does each command on one key,
# which is an empty text from SET to DEL: all others are an error then, or change nothing of it.
ARGUMENTS: dict[bytes, tuple[bytes, ...]] = {
    **dict.fromkeys((b"DEL", b"UNLINK", b"EXISTS", b"GET", b"MGET", b"INCR"), ()),
    **dict.fromkeys((b"SMEMBERS", b"XLEN", b"ZCARD"), ()),
    **dict.fromkeys((b"HDEL", b"HEXISTS", b"HGET", b"HMGET", b"HSTRLEN"), (b"field",)),
    **dict.fromkeys((b"SADD", b"SISMEMBER", b"SREM", b"ZREM", b"ZSCORE"), (b"member",)),
    **dict.fromkeys((b"HSCAN", b"SSCAN"), (b"0",)),
    **dict.fromkeys((b"ZCOUNT", b"ZRANGE", b"ZRANGEBYSCORE"), (b"0", b"0")),
    b"HINCRBY": (b"field", b"1"),
    b"HSET": (b"field", b"1"),
    b"PEXPIRE": (b"1000",),
    b"SET": (b"",),
    b"XADD": (b"*", b"field", b"1"),
    b"XRANGE": (b"-", b"+"),
    b"XREVRANGE": (b"+", b"-"),
    b"XTRIM": (b"MAXLEN", b"0"),
    b"ZADD": (b"0", b"member"),
    b"ZRANGEBYLEX": (b"-", b"+"),
}
ORDER = {b"SET": 0, b"UNLINK": 2, b"DEL": 3}  # all others: 1
CALL = re.compile(rb"\b(?:p?call|note)\(\s*'([A-Z]+)'")  # of a command, in a script
NO_FIELD = b"\0nobody"  # of a hash, that none has


def is_denial(reason: str) -> bool:
    """Say whether an error of Redis with this text has an ACL as its reason."""
    return any(word in reason for word in DENIALS)


def commands_of(*scripts: bytes) -> frozenset[bytes]:
    """Return the commands that the texts of *scripts* call."""
    return frozenset(chain.from_iterable(map(CALL.findall, scripts)))


@attrs.frozen
class Need:
    """Something that must be permitted.

    Attributes:
        name: what an operator knows it by.
        words: a command that is permitted if it is.
        key: whether it is about the name of a key.
    """

    name: str
    words: tuple[bytes, ...]
    key: bool = False

    @property
    def on_probe(self) -> bool:
        """Whether it is about a command, which is done with a key that may not be permitted either."""
        return not self.key and self.words[0] in ARGUMENTS


def needs_of(commands: Iterable[bytes], prefix: bytes, keys: Iterable[bytes], channels: bytes) -> list[Need]:
    """Return all that is needed.

    Args:
        commands: the names of all commands.
        prefix: what all keys begin with.
        keys: what follows it in each; those with a colon at the end go on.
        channels: what all channels begin with that is published to.
    """
    return [
        *_command_needs(commands, prefix + b"probe", channels),
        *(need for key in (b"probe", *keys) for need in _key_needs(prefix + key)),
    ]


def _command_needs(commands: Iterable[bytes], key: bytes, channels: bytes) -> Iterator[Need]:
    for command in sorted(commands, key=lambda name: (ORDER.get(name, 1), name)):
        if command == b"PUBLISH":
            yield Need(f"PUBLISH to {_text(channels)}*", (command, channels + b"probe", b""))
        elif command in KEYLESS:
            yield Need(_text(command), (command, *KEYLESS[command]))
        else:
            yield Need(_text(command), (command, key, *ARGUMENTS[command]))


def _key_needs(key: bytes) -> Iterator[Need]:
    goes_on = key.endswith(b":")
    name, key = _text(key) + "*" * goes_on, key + b"probe" * goes_on
    yield Need(name, (b"HGET", key, NO_FIELD), True)
    yield Need(name, (b"HDEL", key, NO_FIELD), True)


class Rights:
    """Looks what is missing: with each new connection, and again and again.

    Args:
        needs: what the owner of the connection does.
        clock: times the looks.

    Attributes:
        problem: what is not permitted, in some words; "" when all is.
    """

    def __init__(self, needs: Sequence[Need], clock: IReactorTime) -> None:
        self.problem = ""
        self._needs, self._clock = needs, clock
        self._next: IDelayedCall | None = None
        self._script = read_part(PACKAGE, "rights")
        words: list[bytes] = ["\n".join(DENIALS).encode()]
        for need in needs:
            words += [b"%d" % len(need.words), *need.words]
        self._words = words

    async def look(self, protocol: Any) -> None:
        """Ask the server that *protocol* leads to, now and from now on, until it is lost or ``stop`` is called."""
        self.stop()
        try:
            loaded = await protocol.execute_command(b"SCRIPT", b"LOAD", self._script)
            refused = await protocol.execute_command(b"EVALSHA", loaded, b"0", *self._words)
        except RedisError:
            pass  # who uses the connection will meet that, too
        else:
            self._note(missing_text([self._needs[number - 1] for number in refused], self._needs))
        if protocol.connected and self._next is None:
            interval = MISSING_INTERVAL if self.problem else INTERVAL
            self._next = self._clock.callLater(interval, self._look_again, protocol)

    def look_now(self, protocol: Any) -> None:
        """Ask at once, for something was refused; it may be something else than what is known to be missing."""
        if not self.problem:  # else it is looked soon
            self._look_again(protocol)

    def _look_again(self, protocol: Any) -> None:
        Deferred.fromCoroutine(self.look(protocol))

    def stop(self) -> None:
        """Look no more; the connection is lost, or is not used any more."""
        if self._next is not None:
            if self._next.active():
                self._next.cancel()
            self._next = None

    def _note(self, problem: str) -> None:
        if problem and problem != self.problem:
            log.error("Redis refuses: {problem}", problem=problem)
        elif self.problem and not problem:
            log.info("the ACL of Redis permits all that is needed")
        self.problem = problem


def missing_text(refused: Sequence[Need], needs: Sequence[Need]) -> str:
    """Return what an operator reads if *refused*, of *needs*, is not permitted; "" for nothing."""
    if not refused:
        return ""
    causes = _causes(refused, needs)
    names = [need.name for need in causes if not need.key]
    read = [need.name for need in causes if need.key and need.words[0] == b"HGET"]
    written = [need.name for need in causes if need.key and need.words[0] == b"HDEL"]
    names += [f"the key {name}" for name in read if name in written]
    names += [f"reading the key {name}" for name in read if name not in written]
    names += [f"writing the key {name}" for name in written if name not in read]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return (
        f"its ACL does not permit this user (NOPERM): {', '.join(names[:MAX_NAMED])}{more}; "
        "what needs that is refused: see docs/operations/scaling"
    )


def _causes(refused: Sequence[Need], needs: Sequence[Need]) -> list[Need]:
    """Return those of *refused* that are no consequence of others."""
    commands = {need.words[0] for need in refused if not need.key}
    if all(need.words[0] in commands for need in needs if need.on_probe):
        return [need for need in refused if not need.on_probe]  # it is the key that is not permitted
    return [need for need in refused if not (need.key and need.words[0] in commands)]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
