"""What ``txbroker bench`` does: it measures how often, and how fast, workloads are done."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from time import monotonic
from typing import Any

import attrs

from broker.app.client.histogram import Histogram
from broker.app.client.output import emit, emit_json
from broker.app.client.running import make_client, once
from broker.app.client.target import Target
from broker.app.client.workloads import WORKLOADS, Load, Workload
from broker.client import ClientError
from broker.client.asyncio import Client

WARM_UP = 0.2  # of the time that is measured; nothing of it counts
STEP = 0.1  # seconds between two looks of the progress bar
WIDTH = 30  # characters of it
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}


def bench(target: Target, names: Sequence[str], seconds: float, load: Load, *, as_json: bool) -> None:
    """Measure the workloads that are called so, each for *seconds*, and print what is found."""
    once(target, lambda client: _bench(target, client, names, seconds, load, as_json), endless=True)


async def _bench(
    target: Target, first: Client, names: Sequence[str], seconds: float, load: Load, as_json: bool
) -> None:
    for name in names:
        clients = [first]

        async def connect(clients: list[Client] = clients) -> Client:
            client = make_client(target)
            clients.append(client)
            await client.connect()
            return client

        try:
            workload = WORKLOADS[name](connect, load)
            run = await measure(workload, seconds, target.timeout)
            _show(workload, run, as_json)
        finally:
            for client in clients[1:]:
                with suppress(ClientError):
                    await client.close()


@attrs.define(eq=False)
class Run:
    """What was measured.

    Attributes:
        latencies: of the operations.
        seconds: that it took.
    """

    latencies: Histogram = attrs.field(factory=Histogram)
    seconds: float = 0.0


async def measure(workload: Workload, seconds: float, timeout: float | None) -> Run:
    """Do *workload* for *seconds*, after a time in which nothing counts.

    Raises:
        TimeoutError: an operation has taken more than *timeout* seconds.
    """
    numbers, run = count(), Run()
    progress = asyncio.create_task(_progress(workload.name, seconds * (1 + WARM_UP)))
    try:
        await workload.begin()
        await _operate(workload, numbers, Histogram(), seconds * WARM_UP, timeout)
        begun = monotonic()
        await _operate(workload, numbers, run.latencies, seconds, timeout)
        run.seconds = monotonic() - begun
    finally:
        progress.cancel()
        with suppress(asyncio.CancelledError):
            await progress
        with suppress(ClientError):
            await workload.end()
    return run


async def _operate(
    workload: Workload, numbers: count[int], latencies: Histogram, seconds: float, timeout: float | None
) -> None:
    end = monotonic() + seconds

    async def loop() -> None:
        while (begun := monotonic()) < end:
            async with asyncio.timeout(timeout):
                await workload.operate(next(numbers))
            latencies.record(monotonic() - begun)

    loops = [asyncio.create_task(loop()) for _ in range(workload.concurrency)]
    try:
        await asyncio.gather(*loops)
    finally:
        for each in loops:
            each.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


async def _progress(name: str, seconds: float) -> None:
    """Show on a terminal how much of *seconds* is over, until it is cancelled."""
    if not sys.stderr.isatty():
        return
    begun = monotonic()
    try:
        while True:
            part = min(1.0, (monotonic() - begun) / seconds)
            done = round(WIDTH * part)
            print(f"\r{name:<10} [{'#' * done:<{WIDTH}}] {100 * part:3.0f} %", end="", file=sys.stderr, flush=True)
            await asyncio.sleep(STEP)
    finally:
        print(f"\r{'':<{WIDTH + 20}}\r", end="", file=sys.stderr, flush=True)


def _show(workload: Workload, run: Run, as_json: bool) -> None:
    found = result_of(workload, run)
    if as_json:
        emit_json(found)
        return
    shown = "  ".join(f"{name} {value:.2f}" for name, value in found["milliseconds"].items())
    emit(f"{workload.name:<10} {found['per_second']:>10,.0f}/s  ms: {shown}")
    for line in run.latencies.bars():
        emit(line)


def result_of(workload: Workload, run: Run) -> dict[str, Any]:
    """Return what *run* has found, times in milliseconds."""
    latencies, load = run.latencies, workload.load
    counted = latencies.count * workload.deliveries
    times = {name: 1000 * latencies.quantile(part) for name, part in QUANTILES.items()}
    times |= {"max": 1000 * latencies.longest, "mean": 1000 * latencies.mean}
    return {
        "workload": workload.name,
        "per_second": round(counted / run.seconds, 1) if run.seconds else 0.0,
        "operations": latencies.count,
        "seconds": round(run.seconds, 3),
        "concurrency": workload.concurrency,
        "clients": workload.deliveries,
        "bytes": load.size,
        "milliseconds": {name: round(value, 3) for name, value in times.items()},
        "histogram": [[round(1000 * seconds, 3), number] for seconds, number in latencies.octaves()],
    }
