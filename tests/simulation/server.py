"""A simulated Redis server: commands, scripts, publish and subscribe, and what becomes of it."""

from __future__ import annotations

import re
from typing import Any

from txredisapi import ResponseError

from tests.simulation.commands import OK, CommandError, Data, State, Status, Stream
from tests.simulation.network import Link
from tests.simulation.scripts import scripts
from tests.simulation.world import World

INFO = (
    "redis_version:7.2.0\r\nrole:master\r\nloading:0\r\naof_enabled:1\r\nused_memory:{used}\r\nmaxmemory:0\r\n"
    "connected_slaves:0\r\nmaster_replid:{replid}\r\nmaster_repl_offset:{offset}\r\nrun_id:{run}\r\n"
)

KEYS = b"sim:keys:kv"  # where the store has what clients keep
CHANGES = b"sim:0/event/kv/"  # what the channels of their changes begin with


class Server:
    """A Redis server: its data, the connections to it, and what becomes of it.

    Attributes:
        up: whether it runs.
        hung: whether it does nothing for now.
        has_lost: whether it was ever started with other data than it had.
        lost_at: when it last was.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.up, self.hung, self.has_lost = True, False, False
        self.lost_at = 0.0
        self.links: dict[Link, None] = {}
        self.all_links: list[Link] = []
        self._waiting: list[tuple[Link, tuple[bytes, ...]]] = []
        self.data = Data(lambda: world.now, self.publish)
        self._loaded: set[bytes] = set()
        self._published: set[bytes] = set()  # the channels of what a script has published
        self.runs = 0

    # Connections.

    def accept(self, link: Link) -> None:
        self.links[link] = None

    def forget(self, link: Link) -> None:
        self.links.pop(link, None)

    def receive(self, link: Link, words: tuple[bytes, ...]) -> None:
        if link not in self.links or not self.up:
            return
        if self.hung:
            self._waiting.append((link, words))
            return
        reply = self._execute(link, words)
        if reply is not None or words[0] not in (b"SUBSCRIBE", b"PSUBSCRIBE", b"UNSUBSCRIBE", b"PUNSUBSCRIBE"):
            link.reply(reply)

    def publish(self, channel: bytes, message: bytes) -> int:
        self._published.add(channel)
        count = 0
        for link in self.links:
            if channel in link.channels:
                for _ in range(_times(link, channel)):
                    link.reply([b"message", channel, message])
                count += 1
            for glob, pattern in link.patterns.items():
                if pattern.fullmatch(channel):
                    link.reply([b"pmessage", glob, channel, message])
                    count += 1
        return count

    def _execute(self, link: Link, words: tuple[bytes, ...]) -> Any:
        name = words[0].upper()
        try:
            own = getattr(self, f"_do_{name.decode().lower()}", None)
            return own(link, *words[1:]) if own is not None else self.data.execute(name, *words[1:])
        except CommandError as error:
            return ResponseError(str(error))

    def _do_evalsha(self, _: Link, name: bytes, keys: bytes, *words: bytes) -> Any:
        if name not in self._loaded:
            raise CommandError("NOSCRIPT No matching script. Please use EVAL.")
        assert keys == b"0"
        before = dict(self.data.keys.get(KEYS, ()))
        self._published.clear()
        found = scripts().run(name, self.data, words)
        self._check_announced(before)
        return _errors(found)

    def _check_announced(self, before: dict[bytes, bytes]) -> None:
        """Check that the script which has changed a key has published that, too."""
        after = self.data.keys.get(KEYS, {})
        if after == before:
            return
        for key in before.keys() | after.keys():
            if before.get(key) != after.get(key) and CHANGES + key not in self._published:
                self.world.violate("a change of a key was not announced", key.decode())

    def _do_eval(self, link: Link, text: bytes, *words: bytes) -> Any:
        return self._do_evalsha(link, self._do_script(link, b"LOAD", text), *words)

    def _do_script(self, _: Link, verb: bytes, text: bytes) -> bytes:
        assert verb == b"LOAD"
        name = scripts().load(text)
        self._loaded.add(name)
        return name

    def _do_info(self, _: Link, *sections: bytes) -> bytes:
        return INFO.format(replid="a" * 40, run=f"{self.runs:040d}", offset=1, used=size_of(self.data.keys)).encode()

    def _do_config(self, _: Link, verb: bytes, *names: bytes) -> list[bytes]:
        known = {
            b"appendonly": b"yes",
            b"appendfsync": b"always",
            b"save": b"",
            b"maxmemory": b"0",
            b"maxmemory-policy": b"noeviction",
            b"min-replicas-to-write": b"0",
        }
        return [word for name in names if name in known for word in (name, known[name])]

    def _do_ping(self, link: Link) -> Any:
        return [b"pong", b""] if link.channels or link.patterns else Status(b"PONG")

    def _do_select(self, _: Link, number: bytes) -> Any:
        return OK

    def _do_wait(self, _: Link, replicas: bytes, timeout: bytes) -> int:
        return int(replicas)

    def _do_subscribe(self, link: Link, *channels: bytes) -> None:
        for channel in channels:
            link.channels.add(channel)
            link.reply([b"subscribe", channel, len(link.channels) + len(link.patterns)])

    def _do_unsubscribe(self, link: Link, *channels: bytes) -> None:
        for channel in channels:
            link.channels.discard(channel)
            link.reply([b"unsubscribe", channel, len(link.channels) + len(link.patterns)])

    def _do_psubscribe(self, link: Link, *globs: bytes) -> None:
        for glob in globs:
            link.patterns[glob] = glob_pattern(glob)
            link.reply([b"psubscribe", glob, len(link.channels) + len(link.patterns)])

    def _do_punsubscribe(self, link: Link, *globs: bytes) -> None:
        for glob in globs:
            link.patterns.pop(glob, None)
            link.reply([b"punsubscribe", glob, len(link.channels) + len(link.patterns)])

    # What becomes of it.

    def hang(self, hung: bool) -> None:
        """Do nothing for now, or all that waits."""
        self.hung = hung
        if not hung:
            waiting, self._waiting = self._waiting, []
            for link, words in waiting:
                self.receive(link, words)

    def end(self) -> None:
        """End as by kill -9; the data stay, as by appendfsync always."""
        self.up, self.hung = False, False
        self._waiting.clear()
        self._loaded.clear()
        for link in list(self.links):
            link.server_aborts()
        self.links.clear()

    def start(self, data: State | None = None) -> None:
        """Run again, with other *data* if there are any."""
        self.up = True
        self.runs += 1
        if data is not None:
            self.data.replace(data)
            self.has_lost, self.lost_at = True, self.world.now


def _times(link: Link, channel: bytes) -> int:
    """Return how often a message arrives; Redis would close the connection, but links must do without that."""
    if not link.loss or b"node/" not in channel:
        return 1
    chance = link.chance.random()
    return 0 if chance < link.loss else 2 if chance > 1 - link.loss / 2 else 1


def _errors(found: Any) -> Any:
    if type(found) is CommandError:
        return ResponseError(str(found))
    return [_errors(each) for each in found] if type(found) is list else found


def size_of(value: Any) -> int:
    """Return about how many bytes *value* takes in a server."""
    if isinstance(value, bytes):
        return len(value) + 50
    if isinstance(value, dict):
        return sum(size_of(key) + size_of(each) for key, each in value.items())
    if isinstance(value, Stream):
        return size_of(value.fields)
    return sum(map(size_of, value)) if isinstance(value, list | set) else 8


def glob_pattern(glob: bytes) -> re.Pattern[bytes]:
    """Return the pattern of one of Redis's globs: * ? [abc] [^a-z] and \\ before what means itself."""
    parts, at = [], 0
    while at < len(glob):
        char = glob[at : at + 1]
        at += 1
        if char == b"*":
            parts.append(b".*")
        elif char == b"?":
            parts.append(b".")
        elif char == b"\\" and at < len(glob):
            parts.append(re.escape(glob[at : at + 1]))
            at += 1
        elif char == b"[" and (end := glob.find(b"]", at)) > 0:
            parts.append(b"[" + glob[at:end] + b"]")
            at = end + 1
        else:
            parts.append(re.escape(char))
    return re.compile(b"".join(parts), re.DOTALL)
