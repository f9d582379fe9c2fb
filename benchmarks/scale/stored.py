"""What it costs to start with, to add to, to read and to sweep a file of very many events."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from benchmarks.scale.curve import Values
from benchmarks.scale.site import Site, call
from benchmarks.servers import Missing
from broker.messages import Event
from broker.patterns import LOG_PREFIX
from broker.stores.sqlite_file import open_file
from broker.stores.sqlite_tables import TableWriter

CHANNELS = 100
BATCH = 10_000  # events of one transaction
REMOVED = 50_000  # events by a sweep, at least
CHECKPOINT = 20  # transactions, after which the write-ahead log is written back
BODY = b'{"payload":"' + b"x" * 100 + b'"}'
CALLS, PAGE = 20_000, 10
LOCK_TIMEOUT = 5.0  # seconds
SWEEPING = 60.0  # seconds that a sweep may take


def channel(number: int) -> str:
    """Return the name of a channel."""
    return f"stored-{number % CHANNELS}"


def fill(file: Path, size: int) -> None:
    """Write *size* events to a file, as the writer thread does."""
    opened = open_file(str(file), "os", LOCK_TIMEOUT, 0)
    writer, now = TableWriter(opened.writes, opened.epoch, history=opened.history), time.time()
    events = [Event(channel(number), "stored", BODY, "bench", now) for number in range(CHANNELS)]
    for batch, first in enumerate(range(0, size, BATCH)):
        writer.begin()
        for number in range(first, min(first + BATCH, size)):
            event = events[number % CHANNELS]
            writer.append(LOG_PREFIX + event.topic, event, now)
        writer.commit()
        if batch % CHECKPOINT == 0:
            opened.writes.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    opened.close()


def fill_and_start(site: Site) -> None:
    """Start the daemon on a file of so many events."""
    fill(_file(site), site.size)
    _start(site, "none")


def measure_stored(site: Site) -> Values:
    """Start again; store and read events of any channel; start again so that all above *size* are removed."""
    started = _restart(site, "none")
    yield "start, ms", started * 1e3
    yield "store an event, µs", site.microseconds(_posts())
    yield "read a page of 10, µs", site.microseconds(_reads(site.size))
    yield "remove an event that is too old, µs", _sweep(site, started) * 1e6


def _posts() -> Iterator[str]:
    for number in range(CALLS):
        yield call("broker.publish", channel(number), {"n": number}, {"durable": True})


def _reads(size: int) -> Iterator[str]:
    chance, kept = random.Random(size), size // CHANNELS
    for number in range(CALLS):
        yield call("broker.read", channel(number), {"after": chance.randrange(kept), "limit": PAGE})


def _file(site: Site) -> Path:
    return site.server.directory / "txbroker.db"


def _start(site: Site, retention: str) -> None:
    site.server.more = {**site.server.more, "TXBROKER_RETENTION": retention}
    site.server.start()
    site.server.until_ready()


def _restart(site: Site, retention: str) -> float:
    """Start the daemon again; return what that has cost until it is ready, in seconds of CPU time."""
    site.server.stop()
    _start(site, retention)
    return site.cpu()


def _sweep(site: Site, started: float) -> float:
    """Start the daemon so that it removes very many events; return what each costs above a start, in seconds."""
    site.server.stop()
    fill(_file(site), REMOVED)
    heads, trimmed = _totals(site)
    _start(site, f"{site.size // CHANNELS}")
    end = time.monotonic() + SWEEPING
    while _left(site):
        if time.monotonic() > end:
            raise Missing("the events that are too old are not removed")
        time.sleep(0.05)
    return (site.cpu() - started) / (heads - trimmed - site.size)


def _left(site: Site) -> bool:
    """Whether there are events that the daemon is to remove yet."""
    heads, trimmed = _totals(site)
    with closing(sqlite3.connect(_file(site))) as reading:
        (unpurged,) = reading.execute("SELECT count(*) FROM log WHERE purged < trimmed").fetchone()
    return heads - trimmed > site.size or unpurged > 0


def _totals(site: Site) -> tuple[int, int]:
    """Return the sums of the newest and of the last removed ids of all channels."""
    with closing(sqlite3.connect(_file(site))) as reading:
        heads, trimmed = reading.execute(
            "SELECT sum((SELECT max(e.id) FROM event e WHERE e.log = l.id)), sum(l.trimmed) FROM log l"
        ).fetchone()
    return int(heads), int(trimmed)
