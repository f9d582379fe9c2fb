"""Clients of every dialect come and go for a long time: neither memory nor rows grow, and in the end nothing is left.

Usage: ``python -m tests.faults.churn [--minutes 60] [--clients 50] [--attacks]``.  So many clients come each
second, of all dialects; they connect, subscribe, publish, call, queue and leave, under names that nobody has
used before.  Lives are a minute, so that what they have created ends within the run.  With ``--attacks`` there is
one of :mod:`benchmarks.abuse` each minute, and each is made once before, since what it leaves for good, as
keys without a TTL up to their limit, must not count as growth.

It prints a line each minute, and at the end how much memory and how many rows grow in a minute, by the
line that fits best what was seen after the first ten minutes; then which tables are not empty.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import cycle
from pathlib import Path
from statistics import linear_regression

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from benchmarks.abuse.measure import run_attack
from benchmarks.abuse.target import ATTACKS
from tests.faults.test_leaks import visits
from tests.support.daemon import Daemon
from tests.support.eventually import pause
from tests.support.tables import SIGN

MINUTES, CLIENTS = 60.0, 50.0
SETTLING = 10.0  # minutes that do not count
ABUSE_EVERY, ABUSE_SECONDS = 60.0, 3.0
SAMPLE_EVERY = 10.0
MAX_UNDER_WAY = 500  # clients; no more come while the broker is so far behind
ENDING = 300.0  # seconds within which everything is to be gone at the end
LIFE = 60  # seconds
# A key without a TTL stays until it is deleted, as those that some attacks set; so does what signs tokens.
# How far a queue was delivered is kept for an hour at least, see ``broker.core.queues.MIN_LIFE``.
ENTRIES = "entry WHERE NOT (space IN ('kv', 'token') AND expires = 0) AND space <> 'mail-at'"
ROWS = ("SELECT COUNT(*) FROM log", "SELECT COUNT(*) FROM event", f"SELECT COUNT(*) FROM {ENTRIES}")
LIVES = {
    **{f"TXBROKER_{kind}_SECONDS": str(LIFE) for kind in ("CURSOR", "INDEX", "MEMBERSHIP", "CLIENT", "MAILBOX")},
    "TXBROKER_RETENTION": f"{LIFE}s",
    "TXBROKER_PING_SECONDS": "0.5",
    "TXBROKER_PONG_SECONDS": "5",
}


class OpenDaemon(Daemon):
    """A daemon that tells which of its tables are not empty."""

    runs = (sys.executable, "-m", "tests.support.tables")

    async def left(self) -> list[str]:
        self.program.signal(signal.SIGUSR2)
        line = await self.program.line(lambda line: line.startswith(SIGN))
        tables: list[str] = json.loads(line.removeprefix(SIGN))
        return tables


@attrs.frozen
class Sample:
    """What there is at one time: minutes since the start, MiB of memory, rows, MiB of the file."""

    minutes: float
    resident: float
    rows: int
    file: float

    def __str__(self) -> str:
        return f"{self.minutes:5.1f} min  {self.resident:6.2f} MiB  {self.rows:6} rows  file {self.file:6.2f} MiB"


@attrs.define
class Crowd:
    """Clients that come *rate* a second; none is waited for.

    Attributes:
        came: how many there were.
        refused: how many were refused, as when an attack has used a share up.
    """

    port: int
    rate: float
    came: int = 0
    refused: int = 0
    _rounds: int = 0
    _under_way: int = 0
    _began: float = attrs.Factory(time.monotonic)

    def come(self) -> None:
        """Let those come who are due by now."""
        due = (time.monotonic() - self._began) * self.rate
        while self.came < due and self._under_way < MAX_UNDER_WAY:
            for visit in visits(self.port, self._rounds):
                self.came += 1
                self._under_way += 1
                visit.addCallbacks(self._well, self._unwell)
            self._rounds += 1

    def _well(self, _: object) -> None:
        self._under_way -= 1

    def _unwell(self, _: object) -> None:
        self._under_way -= 1
        self.refused += 1


def sample(daemon: Daemon, began: float) -> Sample:
    """Look at the daemon and its file."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    file = daemon.directory / "txbroker.db"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as store:
        rows = sum(store.execute(query).fetchone()[0] for query in ROWS)
    resident = int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024
    return Sample((time.monotonic() - began) / 60, resident, rows, file.stat().st_size / 2**20)


async def abuse(daemon: Daemon, name: str) -> None:
    """Let another process do its worst for a while."""
    process = multiprocessing.get_context("spawn").Process(
        target=run_attack, args=(name, daemon.port, time.monotonic() + ABUSE_SECONDS)
    )
    process.start()
    while process.is_alive():
        await pause(0.1)


async def attack(daemon: Daemon) -> None:
    """Make one attack after the other, until it is cancelled."""
    for name in cycle(ATTACKS):
        await deferLater(reactor, ABUSE_EVERY)
        await abuse(daemon, name)


async def run(daemon: OpenDaemon, minutes: float, rate: float, attacks: bool) -> list[Sample]:
    """Return what was seen."""
    for name in ATTACKS if attacks else ():
        await abuse(daemon, name)
    began, found, crowd = time.monotonic(), list[Sample](), Crowd(daemon.port, rate)
    attacking = Deferred.fromCoroutine(attack(daemon)) if attacks else None
    while time.monotonic() - began < minutes * 60:
        crowd.come()
        if len(found) * SAMPLE_EVERY <= time.monotonic() - began:
            found.append(sample(daemon, began))
            if len(found) % 6 == 1:
                print(found[-1], flush=True)
        await pause(0.05)
    if attacking:
        attacking.addErrback(lambda failure: None).cancel()
    print(f"{crowd.came} clients, {crowd.refused} of them refused")
    return found


def kept(daemon: Daemon) -> list[str]:
    """Return what rows there are, a few of each kind, one line each."""
    queries = (
        "SELECT 'log', * FROM log LIMIT 10",
        "SELECT 'event', log, COUNT(*) FROM event GROUP BY 2 LIMIT 10",
        "SELECT 'entry', space, key, expires FROM entry WHERE NOT (space IN ('kv', 'token') AND expires = 0) LIMIT 10",
    )
    file = daemon.directory / "txbroker.db"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as store:
        return [repr(row) for query in queries for row in store.execute(query)]


async def until_empty(daemon: OpenDaemon) -> None:
    """Wait until nothing is left of anybody, and print what is when that takes too long."""
    began = time.monotonic()
    while (left := await daemon.left()) or sample(daemon, began).rows:
        if time.monotonic() - began > ENDING:
            break
        await pause(1)
    rows = sample(daemon, began).rows
    waited = time.monotonic() - began
    if rows:
        print("\n".join(kept(daemon)))
    print(f"{waited:.0f} s after the last came: {rows} rows, not empty: {', '.join(left) or 'no table'}")


def growth(samples: Sequence[Sample], field: str) -> float:
    """Return by how much *field* grows in a minute."""
    return linear_regression([s.minutes for s in samples], [getattr(s, field) for s in samples]).slope


async def main(minutes: float, rate: float, attacks: bool) -> None:
    """Run, and print what was seen."""
    with tempfile.TemporaryDirectory() as directory:
        daemon = OpenDaemon(Path(directory), **LIVES)
        await daemon.start()
        found = await run(daemon, minutes, rate, attacks)
        await until_empty(daemon)
        await daemon.stop()
    settled = [s for s in found if s.minutes >= min(SETTLING, minutes / 2)]
    for field, unit in (("resident", "MiB of memory"), ("rows", "rows"), ("file", "MiB of the file")):
        values = [getattr(s, field) for s in settled]
        print(f"{growth(settled, field):+10.3f} {unit} a minute, between {min(values):.1f} and {max(values):.1f}")
    print(f"troubles in the log: {len(daemon.troubles())}")
    for line in daemon.troubles()[:5]:
        print(line[:3000])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of the whole run")
    parser.add_argument("--clients", type=float, default=CLIENTS, help="that come in a second")
    parser.add_argument("--attacks", action="store_true", help="one of benchmarks.abuse each minute")
    wanted = parser.parse_args()
    react(lambda _: Deferred.fromCoroutine(main(wanted.minutes, wanted.clients, wanted.attacks)))
