"""What a Redis server says of itself by INFO and CONFIG, as far as its ACL permits that."""

from __future__ import annotations

from typing import Any

import attrs

from broker.redis.connection import NotUsable, ResponseError
from broker.redis.unprivileged import read_unprivileged

# What "appendfsync" promises for an answer that was given.
PROMISES = {
    "always": "what was answered survives a power cut",
    "everysec": "the last second may be lost when it ends without notice",
    "no": "what the system had not written may be lost in a power cut",
}

OPTIONS = (
    *("appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy"),
    *("min-replicas-to-write", "min-replicas-max-lag"),
)


MIN_VERSION = (6, 2)  # XTRIM with MINID is of that


async def read_info(protocol: Any, *sections: bytes, prefix: bytes) -> dict[str, str]:
    """Return the fields of INFO, or of some sections of it, of the server that *protocol* is connected to.

    Where its ACL does not permit INFO, as it is usual for who gets no dangerous command, they are those that can be
    found out otherwise: see ``unprivileged``.

    Args:
        protocol: the connection.
        sections: none for all.
        prefix: what all keys of the broker begin with.
    """
    try:
        text = (await protocol.execute_command(b"INFO", *sections)).decode("utf-8", "replace")
    except ResponseError as error:
        if "NOPERM" not in str(error):
            raise
        return await read_unprivileged(protocol, prefix)
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def check_version(info: dict[str, str]) -> None:
    """Raise ``NotUsable`` if the server of *info*, the fields of INFO, is a Sentinel, or older than ``MIN_VERSION``."""
    if info.get("redis_mode") == "sentinel":
        raise NotUsable("it is a Sentinel, which has no data: write redis+sentinel://host:port/master")
    version = info.get("redis_version", "")
    numbers = version.split(".")[:2]
    if len(numbers) == 2 and all(map(str.isdecimal, numbers)) and tuple(map(int, numbers)) < MIN_VERSION:
        raise NotUsable(f"its version {version} is too old: 6.2 or later is needed")


async def check_subscribing(protocol: Any, channels: bytes) -> None:
    """Raise ``NotUsable`` if the ACL does not permit to subscribe to channels, and to patterns of them."""
    word = channels + b"silent"  # where nothing is published
    for command in (b"SUBSCRIBE", b"UNSUBSCRIBE", b"PSUBSCRIBE", b"PUNSUBSCRIBE"):
        try:
            await protocol.execute_command(command, word)
        except ResponseError as error:
            if "NOPERM" not in str(error):
                raise
            raise NotUsable(f"its ACL does not permit this user to subscribe: {error}") from None


@attrs.frozen
class ServerInfo:
    """A Redis server as it was when we connected.

    Attributes:
        info: the fields of INFO.
        options: some parameters of CONFIG, as far as we may read them.
    """

    info: dict[str, str] = attrs.field(factory=dict)
    options: dict[str, str] = attrs.field(factory=dict)

    @classmethod
    async def query(cls, protocol: Any, prefix: bytes = b"txbroker:") -> ServerInfo:
        """Return what the server says that *protocol* is connected to; all keys of the broker begin with *prefix*."""
        info = await read_info(protocol, prefix=prefix)
        options: dict[str, str] = {}
        for name in OPTIONS:
            try:
                found = await protocol.execute_command(b"CONFIG", b"GET", name)
            except ResponseError:
                break  # hosted ones often do not permit it
            options.update((key.decode(), value.decode()) for key, value in zip(found[::2], found[1::2], strict=True))
        return cls(info, options)

    def check(self) -> None:
        """Raise ``NotUsable`` unless it takes writes now, and is not too old."""
        check_version(self.info)
        if self.info.get("loading") == "1":
            raise NotUsable("it is loading its data")
        if self.info.get("role") == "slave":
            raise NotUsable("it is a replica, which takes no writes")

    @property
    def run(self) -> bytes:
        """A word that is another one each time a server is started."""
        return self.info.get("run_id", "").encode() or b"-"

    @property
    def promise(self) -> str:
        """Its version, and what becomes of what it has answered."""
        if not self.info:
            return "not reached yet"
        version = f"version {self.info.get('redis_version', 'unknown')}"
        if "aof_enabled" not in self.info:
            return f"{version}; its ACL does not permit INFO, which says what becomes of what was acknowledged"
        if self.info.get("aof_enabled") != "1":
            saved = self.options.get("save", "")
            kept = "what was not saved in its last snapshot" if saved or not self.options else "everything"
            return f"{version}, appendonly no: {kept} is lost when it ends"
        fsync = self.options.get("appendfsync")
        if fsync is None:
            return f"{version}, appendonly yes, appendfsync unknown"
        return f"{version}, appendonly yes, appendfsync {fsync}: {PROMISES.get(fsync, 'unknown')}"

    def warnings(self, fails_over: bool = False) -> list[str]:
        """Return what an operator should change; *fails_over*: whether Sentinels may make a replica the master."""
        found = []
        policy = self.options.get("maxmemory-policy", "noeviction")
        if policy != "noeviction" and self.options.get("maxmemory", "0") != "0":
            found.append(f"Redis throws data away when it is full (maxmemory-policy {policy}): set noeviction")
        replicates = fails_over or int(self.info.get("connected_slaves", "0")) > 0
        if replicates and self.options.get("min-replicas-to-write") == "0":
            found.append(
                "Redis acknowledges what no replica has: a failover may lose it; "
                "set min-replicas-to-write 1 and min-replicas-max-lag 10, see docs/operations/scaling"
            )
        return found
