"""Clients of every dialect come and go for a long time, with abuse in between: neither memory nor rows grow.

Usage: ``python -m tests.faults.churn [MINUTES] [PAUSE]``.  Each round begins with names that nobody
has used before; lives are a minute or two, so that what a round has created ends within the run.
Each attack is made once before, since what it leaves for good, as keys without a TTL up to their
limit, must not count as growth.
It prints a line each minute, and at the end how much memory and how many rows grow in an hour, by
the line that fits best what was seen after the first fifth of the time.
"""

from __future__ import annotations

import multiprocessing
import re
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import count, cycle
from pathlib import Path
from statistics import linear_regression
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater, react

from benchmarks.abuse.measure import run_attack
from benchmarks.abuse.target import ATTACKS
from tests.faults.test_leaks import visits
from tests.support.daemon import Daemon

MINUTES, PAUSE = 60.0, 3.0  # of a run, and seconds between two rounds
CLIENTS = 5  # of each kind, in a round
ABUSE_EVERY, ABUSE_SECONDS = 60.0, 3.0
FIRST_SECONDS = 1.0  # of each attack before
SAMPLE_EVERY = 10.0
SETTLING = 0.2  # of the run, that does not count
# A key without a TTL stays until it is deleted, as those that some attacks set.
ROWS = (
    "SELECT COUNT(*) FROM log",
    "SELECT COUNT(*) FROM event",
    "SELECT COUNT(*) FROM entry WHERE NOT (space = 'kv' AND expires = 0)",
)
LIVES = {
    "TXBROKER_CURSOR_SECONDS": "60",
    "TXBROKER_INDEX_SECONDS": "60",
    "TXBROKER_MEMBERSHIP_SECONDS": "60",
    "TXBROKER_CLIENT_SECONDS": "60",
    "TXBROKER_MAILBOX_SECONDS": "60",
    "TXBROKER_RETENTION": "60s",
    "TXBROKER_PING_SECONDS": "0.5",
    "TXBROKER_PONG_SECONDS": "5",
}


@attrs.frozen
class Sample:
    """What there is at one time: seconds since the start, KiB of memory, rows, KiB of the file."""

    seconds: float
    resident: int
    rows: int
    file: int


def sample(daemon: Daemon, began: float) -> Sample:
    """Look at the daemon and its file."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    file = daemon.directory / "txbroker.db"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as store:
        rows = sum(store.execute(query).fetchone()[0] for query in ROWS)
    resident = int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])
    return Sample(time.monotonic() - began, resident, rows, file.stat().st_size // 1024)


async def abuse(daemon: Daemon, name: str, seconds: float) -> None:
    """Let another process do its worst for a while."""
    process = multiprocessing.get_context("spawn").Process(
        target=run_attack, args=(name, daemon.port, time.monotonic() + seconds)
    )
    process.start()
    while process.is_alive():
        await deferLater(reactor, 0.1)


async def visitors(port: int, first: int) -> int:
    """Let clients of each kind come; return how many were refused, as when an attack has used a share up."""
    done = await DeferredList(
        [visit for n in range(first, first + CLIENTS) for visit in visits(port, n)], consumeErrors=True
    )
    return sum(not well for well, _ in done)


async def run(minutes: float, pause: float, directory: Path) -> list[Sample]:
    """Return what was seen."""
    daemon = await Daemon(directory, **LIVES).start()
    for name in ATTACKS:
        await abuse(daemon, name, FIRST_SECONDS)
    began = time.monotonic()
    found: list[Sample] = []
    rounds, attacks, refused = count(), cycle(ATTACKS), 0
    next_abuse = ABUSE_EVERY
    while (now := time.monotonic() - began) < minutes * 60:
        first = next(rounds) * CLIENTS
        refused += await visitors(daemon.port, first)
        if now >= next_abuse:
            next_abuse = now + ABUSE_EVERY
            await abuse(daemon, next(attacks), ABUSE_SECONDS)
        if not found or now - found[-1].seconds >= SAMPLE_EVERY:
            found.append(sample(daemon, began))
            if len(found) % 6 == 1:
                print(found[-1], flush=True)
        await deferLater(reactor, pause)
    await daemon.stop()
    print(f"{next(rounds)} rounds, {refused} visits refused; troubles in the log: {len(daemon.troubles())}")
    for line in daemon.troubles()[:5]:
        print(line[:3000])
    return found


def slope(samples: Sequence[Sample], field: str) -> float:
    """Return by how much *field* grows in an hour."""
    return linear_regression([s.seconds for s in samples], [getattr(s, field) for s in samples]).slope * 3600


def main(arguments: Sequence[str]) -> None:
    """Run for as many minutes as the first argument says, with the second as the pause in seconds."""
    numbers = [float(word) for word in arguments]
    minutes, pause = (*numbers, *(MINUTES, PAUSE)[len(numbers) :])

    async def work(_: Any) -> None:
        with tempfile.TemporaryDirectory() as directory:
            found = await run(minutes, pause, Path(directory))
        settled = [s for s in found if s.seconds >= SETTLING * minutes * 60]
        for field, unit in (("resident", "KiB of memory"), ("rows", "rows"), ("file", "KiB of the file")):
            values = [getattr(s, field) for s in settled]
            print(f"{slope(settled, field):+10.0f} {unit} an hour, between {min(values)} and {max(values)}")

    react(lambda reactor: Deferred.fromCoroutine(work(reactor)))


if __name__ == "__main__":
    main(sys.argv[1:])
