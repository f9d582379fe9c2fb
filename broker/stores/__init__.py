"""Where stored topics and keys live: ``memory:``, ``sqlite:`` or ``redis:``.

Each store implements :class:`broker.interfaces.IStore`; the contract is written
there and checked by one suite for all of them (``tests/stores/store_contract.py``).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.interfaces import IReactorFromThreads, IReactorTime

from broker.config.addresses import is_redis
from broker.errors import Invalid
from broker.interfaces import IStore, IWallClock

__all__ = ["open_store"]

FORMS = "sqlite:, sqlite:/path, memory:, redis://, rediss://, redis+unix:// or redis+sentinel://"
DATABASE = "txbroker.db"  # the file of a bare "sqlite:"


def open_store(
    url: str,
    *,
    clock: IReactorTime,
    directory: str = "",
    durability: str = "fsync",
    reactor: IReactorFromThreads | None = None,
    prefix: str = "txbroker:",
    announce: bool = False,
    max_bytes: int = 0,
    min_free_bytes: int = 0,
    observe: Callable[[int, float], object] | None = None,
    failed: Callable[[int], object] | None = None,
    checkpoint_failed: Callable[[], object] | None = None,
    wait: tuple[int, int] = (0, 0),
    wall: IWallClock | None = None,
) -> IStore:
    """Return the store that *url* names; ``startService`` opens it.

    Args:
        url: ``memory:``, ``sqlite:`` (the file ``txbroker.db`` in *directory*), ``sqlite:/path`` or ``sqlite:path``
            below *directory*, or that of a Redis (``broker.redis.address``).
        clock: for timers, and for how long something takes.
        directory: where files are; "" is the working directory.
        durability: what was answered survives a power cut (``fsync``) or the end of the process only (``os``).
        reactor: where a writer thread answers; *clock* if it can do that, else the reactor in use.
        prefix: what all keys in Redis begin with.
        announce: whether appending publishes the event in Redis, as the bus of the same URL expects it.
        max_bytes: what the store may hold; 0: any number.
        min_free_bytes: how much of the disk is left free.
        observe: called with the operations and the seconds of each commit.
        failed: called with the number of operations that a failure took.
        checkpoint_failed: called when the write-ahead log of SQLite could not be written back.
        wait: as for ``RedisStore``.
        wall: the time of day, of a Redis until its own is known; by default that of *clock*.

    Raises:
        Invalid: there is no such store or durability, or Redis support is not installed.
    """
    _check(url, durability)
    scheme, _, rest = url.partition(":")
    # Imported where it is chosen: a daemon pays for the store it uses only.
    if scheme == "memory":
        from broker.stores.memory import MemoryStore

        return MemoryStore(clock, max_bytes, wall)
    common: dict[str, Any] = {"clock": clock, "reactor": reactor or _threads(clock), "max_bytes": max_bytes}
    common |= {"observe": observe, "failed": failed, "wall": wall}
    if scheme == "sqlite":
        from broker.stores.sqlite import SqliteStore

        common |= {"min_free_bytes": min_free_bytes, "checkpoint_failed": checkpoint_failed}
        return SqliteStore(database_path(rest, directory), durability=durability, **common)
    from broker.stores.redis import RedisStore

    return RedisStore(url, prefix=prefix, announce=announce, wait=wait, **common)


def _check(url: str, durability: str) -> None:
    scheme, colon, rest = url.partition(":")
    if durability not in ("fsync", "os"):
        raise Invalid("durability", message='The durability must be "fsync" or "os".')
    if not (scheme == "sqlite" and colon) and not (scheme == "memory" and colon and not rest) and not is_redis(url):
        # The rest of the URL may hold a password, so that only its scheme is repeated.
        raise Invalid("store", message=f"There is no store {scheme[:20]!r}: use {FORMS}.")


def database_path(rest: str, directory: str) -> str:
    """Return the file that ``sqlite:<rest>`` names.

    Raises:
        Invalid: *rest* has a host, which a file has not.
    """
    if rest.startswith("//"):
        if not rest.startswith("///"):
            raise Invalid("store", message="A SQLite store has no host: write sqlite:/path or sqlite:path.")
        rest = rest[2:]
    # realpath: a file with two names has one lock.
    return os.path.realpath(os.path.join(directory, rest or DATABASE))


def _threads(clock: IReactorTime) -> IReactorFromThreads:
    if IReactorFromThreads.providedBy(clock):
        return cast(IReactorFromThreads, clock)
    from twisted.internet import reactor

    return cast(IReactorFromThreads, reactor)
