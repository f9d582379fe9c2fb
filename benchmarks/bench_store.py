"""What an append costs: CPU microseconds of this process, by store and appends in flight.

    python benchmarks/bench_store.py [--rows N] [--logs N] [--body BYTES] [--directory DIR] [--store URL …]

The directory should be on the disk that the broker will use.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import react

from broker.interfaces import IStore
from broker.messages import Event
from broker.stores import open_store


class Load:
    """Keeps a number of appends in flight until all are answered."""

    def __init__(self, store: IStore, rows: int, logs: int, body: bytes) -> None:
        self.store = store
        self.left = self.unanswered = rows
        self.logs = [f"log-{number}" for number in range(logs)]
        self.body = body
        self.waits: list[float] = []
        self.done: Deferred[None] = Deferred()

    def run(self, flight: int) -> Deferred[None]:
        for _ in range(flight):
            self.append()
        return self.done

    def append(self) -> None:
        if self.left == 0:
            return
        self.left -= 1
        log = self.logs[self.left * 7919 % len(self.logs)]
        started = time.perf_counter()
        answer = self.store.append(log, Event(log, "message", self.body, "bench", 1.0))
        answer.addCallback(self.answered, started)

    def answered(self, _: Event, started: float) -> None:
        self.waits.append(time.perf_counter() - started)
        self.unanswered -= 1
        if self.unanswered == 0:
            self.done.callback(None)
        else:
            # In a turn of its own, as a client's next request would come.
            reactor.callLater(0, self.append)


async def measure(url: str, durability: str, flight: int, options: argparse.Namespace) -> None:
    batches: list[int] = []
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        clock: Any = reactor
        store = open_store(
            url, clock=clock, directory=directory, durability=durability, observe=lambda rows, _: batches.append(rows)
        )
        store.startService()
        rows = options.rows if flight > 1 else options.rows // 10
        await Load(store, 500, options.logs, b"").run(64)  # every log has been met
        batches.clear()
        load = Load(store, rows, options.logs, bytes(options.body))
        cpu, wall = time.process_time(), time.perf_counter()
        await load.run(flight)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        stopped = store.stopService()
        if stopped is not None:
            await stopped
    waits = sorted(load.waits)
    print(
        f"{url:8} {durability:5} {flight:4} in flight {cpu / rows * 1e6:7.1f} us/append {rows / wall:8.0f}/s"
        f"  p50 {waits[rows // 2] * 1e3:6.2f} ms  p99 {waits[rows * 99 // 100] * 1e3:6.2f} ms"
        + (f"  {rows / len(batches):6.1f} a commit" if batches else ""),
        flush=True,
    )


async def main(options: argparse.Namespace) -> None:
    for url in options.store:
        for durability in ("fsync",) if url == "memory:" else ("fsync", "os"):
            for flight in (1, 64, 512):
                await measure(url, durability, flight, options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--logs", type=int, default=100)
    parser.add_argument("--body", type=int, default=100, help="bytes")
    parser.add_argument("--directory", default=os.curdir)
    parser.add_argument("--store", nargs="*", default=["memory:", "sqlite:"])
    arguments = parser.parse_args()
    react(lambda _: ensureDeferred(main(arguments)))
