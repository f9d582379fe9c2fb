"""The commands of Redis that the broker's scripts use, on Python's own containers.

``test_server.py`` compares them with a real redis-server.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable
from functools import cached_property
from math import inf
from typing import Any

Reply = Any  # bytes, int, None, a list of replies, or ``Status``
Id = tuple[int, int]  # of an entry of a stream
State = tuple[dict[bytes, Any], dict[bytes, float]]  # all keys, and when they expire
MAX_PART = 2**64 - 1


class CommandError(Exception):
    """What a server refuses, in its own words."""


class Status(bytes):
    """A reply like OK, which is no value."""


OK = Status(b"OK")
WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


class SortedSet(dict[bytes, float]):
    """Members and their scores."""

    def ordered(self) -> list[tuple[float, bytes]]:
        """Return scores and members, least first, and by their bytes where scores are the same."""
        return sorted((score, member) for member, score in self.items())


class Stream:
    """Entries by their ids, which rise."""

    def __init__(self) -> None:
        self.ids: list[Id] = []
        self.fields: list[list[bytes]] = []
        self.last: Id = (0, 0)


def number_of(text: bytes) -> float:
    """Return a score that a command names."""
    try:
        return float(text)
    except ValueError:
        raise CommandError("ERR value is not a valid float") from None


def integer_of(text: bytes) -> int:
    """Return an integer that a command names."""
    try:
        return int(text)
    except ValueError:
        raise CommandError("ERR value is not an integer or out of range") from None


def score_text(score: float) -> bytes:
    """Return *score* as Redis writes it."""
    if score in (inf, -inf):
        return b"inf" if score > 0 else b"-inf"
    return b"%d" % score if score == int(score) and abs(score) < 1e17 else repr(score).encode()


class Data:
    """All keys of one server, and the commands on them, each a method in capitals.

    Args:
        seconds: gives the server's time.
        publish: called with a channel and a message; returns how many received it.
    """

    def __init__(self, seconds: Callable[[], float], publish: Callable[[bytes, bytes], int]) -> None:
        self.keys: dict[bytes, Any] = {}
        self.ends: dict[bytes, float] = {}  # when keys expire
        self._first_end = inf  # of them
        self.unknown: list[bytes] = []  # commands that were asked for and are not simulated
        self._seconds, self._publish = seconds, publish

    def copy(self) -> State:
        """Return what all keys hold, and when they expire, as it is now."""
        return {key: _copy_of(value) for key, value in self.keys.items()}, dict(self.ends)

    def replace(self, state: State) -> None:
        """Have the data of *state* and no others."""
        self.keys, self.ends = state
        self._first_end = min(self.ends.values(), default=inf)

    @cached_property
    def commands(self) -> dict[bytes, Callable[..., Reply]]:
        """The commands by their names."""
        return {name.encode(): getattr(self, name) for name in dir(self) if name.isupper()}

    def execute(self, name: bytes, *words: bytes) -> Reply:
        """Do one command.

        Raises:
            CommandError: the server refuses it.
        """
        command = self.commands.get(name) or self.commands.get(name.upper())
        if command is None:
            self.unknown.append(name)
            raise CommandError(f"ERR unknown command {name!r}: tests/simulation/commands.py has it not yet")
        if self._seconds() >= self._first_end:
            self._expire()
        return command(*words)

    def _expire(self) -> None:
        now = self._seconds()
        for key in [key for key, end in self.ends.items() if end <= now]:
            self._forget(key)
        self._first_end = min(self.ends.values(), default=inf)

    def _forget(self, key: bytes) -> bool:
        """Have no such key any more; say whether there was one."""
        self.ends.pop(key, None)
        return self.keys.pop(key, None) is not None

    def _get(self, key: bytes, kind: type[Any]) -> Any:
        found = self.keys.get(key)
        if found is not None and type(found) is not kind:
            raise CommandError(WRONG_TYPE)
        return found

    def _make(self, key: bytes, kind: type[Any]) -> Any:
        found = self._get(key, kind)
        if found is None:
            found = self.keys[key] = kind()
        return found

    def _drop_empty(self, key: bytes) -> None:
        if not self.keys[key]:
            self._forget(key)

    # Texts.

    def TIME(self) -> Reply:
        micros = round(self._seconds() * 1e6)
        return [b"%d" % (micros // 1_000_000), b"%d" % (micros % 1_000_000)]

    def GET(self, key: bytes) -> Reply:
        return self._get(key, bytes)

    def MGET(self, *keys: bytes) -> Reply:
        found = [self.keys.get(key) for key in keys]
        return [each if type(each) is bytes else None for each in found]

    def SET(self, key: bytes, value: bytes, *options: bytes) -> Reply:
        assert options in ((), (b"NX",)) or options[0] in (b"EX", b"PX"), options
        if options == (b"NX",) and key in self.keys:
            return None
        self.keys[key] = value
        self.ends.pop(key, None)
        if options[:1] == (b"EX",):
            self.EXPIRE(key, options[1])
        if options[:1] == (b"PX",):
            self.PEXPIRE(key, options[1])
        return OK

    def INCR(self, key: bytes) -> Reply:
        return self.INCRBY(key, b"1")

    def INCRBY(self, key: bytes, amount: bytes) -> Reply:
        result = integer_of(self._get(key, bytes) or b"0") + integer_of(amount)
        self.keys[key] = b"%d" % result
        return result

    def DEL(self, *keys: bytes) -> Reply:
        return sum(map(self._forget, keys))

    UNLINK = DEL

    def EXISTS(self, *keys: bytes) -> Reply:
        return sum(key in self.keys for key in keys)

    def PEXPIRE(self, key: bytes, millis: bytes) -> Reply:
        if key not in self.keys:
            return 0
        self.ends[key] = self._seconds() + integer_of(millis) / 1000
        self._expire()  # now, perhaps
        return 1

    def EXPIRE(self, key: bytes, seconds: bytes) -> Reply:
        return self.PEXPIRE(key, b"%d" % (1000 * integer_of(seconds)))

    def PERSIST(self, key: bytes) -> Reply:
        return int(self.ends.pop(key, None) is not None)

    def PUBLISH(self, channel: bytes, message: bytes) -> Reply:
        return self._publish(channel, message)

    # Hashes.

    def HGET(self, key: bytes, field: bytes) -> Reply:
        return (self._get(key, dict) or {}).get(field)

    def HSTRLEN(self, key: bytes, field: bytes) -> Reply:
        return len((self._get(key, dict) or {}).get(field, b""))

    def HMGET(self, key: bytes, *fields: bytes) -> Reply:
        found = self._get(key, dict) or {}
        return [found.get(field) for field in fields]

    def HGETALL(self, key: bytes) -> Reply:
        return [word for pair in (self._get(key, dict) or {}).items() for word in pair]

    def HKEYS(self, key: bytes) -> Reply:
        return list(self._get(key, dict) or ())

    def HLEN(self, key: bytes) -> Reply:
        return len(self._get(key, dict) or ())

    def HEXISTS(self, key: bytes, field: bytes) -> Reply:
        return int(field in (self._get(key, dict) or ()))

    def HSET(self, key: bytes, *pairs: bytes) -> Reply:
        found = self._make(key, dict)
        before = len(found)
        found.update(zip(pairs[::2], pairs[1::2], strict=True))
        return len(found) - before

    HMSET = HSET

    def HSETNX(self, key: bytes, field: bytes, value: bytes) -> Reply:
        return 0 if self.HEXISTS(key, field) else self.HSET(key, field, value)

    def HDEL(self, key: bytes, *fields: bytes) -> Reply:
        found = self._get(key, dict)
        if found is None:
            return 0
        count = sum(found.pop(field, None) is not None for field in fields)
        self._drop_empty(key)
        return count

    def HINCRBY(self, key: bytes, field: bytes, amount: bytes) -> Reply:
        found = self._make(key, dict)
        result = integer_of(found.get(field, b"0")) + integer_of(amount)
        found[field] = b"%d" % result
        return result

    def HSCAN(self, key: bytes, cursor: bytes, *options: bytes) -> Reply:
        """Return a page in the order of the fields; a cursor is how many were returned."""
        found = sorted((self._get(key, dict) or {}).items())
        start, count = int(cursor), int(options[1]) if options else 10
        page = found[start : start + count]
        following = start + count if start + count < len(found) else 0
        return [b"%d" % following, [word for pair in page for word in pair]]

    # Sets.

    def SADD(self, key: bytes, *members: bytes) -> Reply:
        found = self._make(key, set)
        before = len(found)
        found.update(members)
        return len(found) - before

    def SREM(self, key: bytes, *members: bytes) -> Reply:
        found = self._get(key, set)
        if found is None:
            return 0
        before = len(found)
        found.difference_update(members)
        count = before - len(found)
        self._drop_empty(key)
        return count

    def SISMEMBER(self, key: bytes, member: bytes) -> Reply:
        return int(member in (self._get(key, set) or ()))

    def SCARD(self, key: bytes) -> Reply:
        return len(self._get(key, set) or ())

    def SMEMBERS(self, key: bytes) -> Reply:
        return sorted(self._get(key, set) or ())

    def SSCAN(self, key: bytes, cursor: bytes, *options: bytes) -> Reply:
        """Return a page in the order of the members; a cursor is how many were returned."""
        found = sorted(self._get(key, set) or ())
        start, count = int(cursor), int(options[1]) if options else 10
        following = start + count if start + count < len(found) else 0
        return [b"%d" % following, found[start : start + count]]

    # Sorted sets.

    def ZADD(self, key: bytes, *words: bytes) -> Reply:
        options = []
        while words[0] in (b"NX", b"XX", b"GT", b"LT", b"CH"):
            options.append(words[0])
            words = words[1:]
        assert not set(options) - {b"NX", b"XX", b"GT"}, options
        found = self._make(key, SortedSet)
        before = len(found)
        for score, member in zip(words[::2], words[1::2], strict=True):
            value, old = number_of(score), found.get(member)
            if old is None and b"XX" in options:
                continue
            if old is not None and (b"NX" in options or (b"GT" in options and value <= old)):
                continue
            found[member] = value
        count = len(found) - before
        self._drop_empty(key)
        return count

    def ZREM(self, key: bytes, *members: bytes) -> Reply:
        found = self._get(key, SortedSet)
        if found is None:
            return 0
        count = sum(found.pop(member, None) is not None for member in members)
        self._drop_empty(key)
        return count

    def ZSCORE(self, key: bytes, member: bytes) -> Reply:
        score = (self._get(key, SortedSet) or {}).get(member)
        return None if score is None else score_text(score)

    def ZCARD(self, key: bytes) -> Reply:
        return len(self._get(key, SortedSet) or ())

    def _ordered(self, key: bytes) -> list[tuple[float, bytes]]:
        found = self._get(key, SortedSet)
        return [] if found is None else found.ordered()

    def ZRANGE(self, key: bytes, first: bytes, last: bytes, *options: bytes) -> Reply:
        found = self._ordered(key)
        start, stop = (int(n) + len(found) if int(n) < 0 else int(n) for n in (first, last))
        return _members(found[max(0, start) : stop + 1], b"WITHSCORES" in options)

    def ZRANGEBYSCORE(self, key: bytes, least: bytes, most: bytes, *options: bytes) -> Reply:
        above, below = _bound(least), _bound(most)
        found = [
            pair
            for pair in self._ordered(key)
            if (pair[0] > above[0] or (above[1] and pair[0] == above[0]))
            and (pair[0] < below[0] or (below[1] and pair[0] == below[0]))
        ]
        return _members(_limited(found, options), b"WITHSCORES" in options)

    def ZCOUNT(self, key: bytes, least: bytes, most: bytes) -> Reply:
        return len(self.ZRANGEBYSCORE(key, least, most))

    def ZREMRANGEBYSCORE(self, key: bytes, least: bytes, most: bytes) -> Reply:
        found = self.ZRANGEBYSCORE(key, least, most)
        return self.ZREM(key, *found) if found else 0

    def ZRANGEBYLEX(self, key: bytes, least: bytes, most: bytes, *options: bytes) -> Reply:
        members = [member for _, member in self._ordered(key)]
        found = [member for member in members if _after(member, least) and _before(member, most)]
        return _limited(found, options)

    # Streams.

    def XADD(self, key: bytes, id: bytes, *fields: bytes) -> Reply:
        if id == b"MAXLEN":
            _, bound, id, *rest = fields
            added = self.XADD(key, id, *rest)
            self.XTRIM(key, b"MAXLEN", bound)
            return added
        stream = self._make(key, Stream)
        made = _id(id, 0)
        if made <= stream.last:
            raise CommandError("ERR The ID specified in XADD is equal or smaller than the target stream top item")
        stream.ids.append(made)
        stream.fields.append(list(fields))
        stream.last = made
        return b"%d-%d" % made

    def XLEN(self, key: bytes) -> Reply:
        found = self._get(key, Stream)
        return 0 if found is None else len(found.ids)

    def _between(self, key: bytes, first: bytes, last: bytes) -> list[Reply]:
        stream = self._get(key, Stream)
        if stream is None:
            return []
        start = bisect_left(stream.ids, _id(first, 0))
        stop = bisect_left(stream.ids, (_id(last, MAX_PART)[0], _id(last, MAX_PART)[1] + 1))
        return [[b"%d-%d" % stream.ids[at], list(stream.fields[at])] for at in range(start, stop)]

    def XRANGE(self, key: bytes, first: bytes, last: bytes, *options: bytes) -> Reply:
        found = self._between(key, first, last)
        return found[: int(options[1])] if options else found

    def XREVRANGE(self, key: bytes, last: bytes, first: bytes, *options: bytes) -> Reply:
        found = self._between(key, first, last)[::-1]
        return found[: int(options[1])] if options else found

    def XTRIM(self, key: bytes, *words: bytes) -> Reply:
        stream = self._get(key, Stream)
        if stream is None:
            return 0
        kind, *rest = words
        bound = next(word for word in rest if word not in (b"=", b"~"))
        count = (
            bisect_left(stream.ids, _id(bound, 0)) if kind == b"MINID" else max(0, len(stream.ids) - integer_of(bound))
        )
        del stream.ids[:count]
        del stream.fields[:count]
        return count


def _copy_of(value: Any) -> Any:
    if type(value) is bytes:
        return value
    if type(value) is Stream:
        copied = Stream()
        # What is in an entry never changes.
        copied.ids, copied.fields, copied.last = value.ids.copy(), value.fields.copy(), value.last
        return copied
    return type(value)(value)


def _id(text: bytes, missing: int) -> Id:
    if text in (b"-", b"+"):
        return (0, 0) if text == b"-" else (MAX_PART, MAX_PART)
    first, _, second = text.partition(b"-")
    return integer_of(first), integer_of(second) if second else missing


def _bound(text: bytes) -> tuple[float, bool]:
    """Return a score, and whether it is included."""
    return (number_of(text[1:]), False) if text.startswith(b"(") else (number_of(text), True)


def _after(member: bytes, least: bytes) -> bool:
    if least in (b"-", b"+"):
        return least == b"-"
    return member > least[1:] or (least[:1] == b"[" and member == least[1:])


def _before(member: bytes, most: bytes) -> bool:
    if most in (b"-", b"+"):
        return most == b"+"
    return member < most[1:] or (most[:1] == b"[" and member == most[1:])


def _limited(found: list[Any], options: tuple[bytes, ...]) -> list[Any]:
    if b"LIMIT" not in options:
        return found
    at = options.index(b"LIMIT")
    offset, count = int(options[at + 1]), int(options[at + 2])
    return found[offset:] if count < 0 else found[offset : offset + count]


def _members(found: list[tuple[float, bytes]], scores: bool) -> list[bytes]:
    if scores:
        return [word for score, member in found for word in (member, score_text(score))]
    return [member for _, member in found]


def digest(text: bytes) -> bytes:
    """Return what Redis calls a script by."""
    return hashlib.sha1(text).hexdigest().encode()
