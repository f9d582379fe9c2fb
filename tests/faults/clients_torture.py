"""The Python client behind a network that freezes, resets, half-closes and delays, and a broker that is restarted.

``python -m tests.faults.clients_torture [--driver twisted|asyncio] [--count 10000] [--faults 100] [--restarts 5]``.
So many calls, durable publications with keys and jobs go on, and two subscriptions to one topic, with a cursor and
without.  The exit status is 1 when a call has not ended by a result or a typed error, an event was missing or came
twice, a job was not done, the statistics do not add up, or something was left.
"""

from __future__ import annotations

import argparse
import gc
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from broker.client import ClientError, Statistics
from broker.client.outcomes import Operation
from tests.support.both_clients import LIBRARIES, Library
from tests.support.daemon import Daemon
from tests.support.eventually import pause
from tests.support.proxy import Proxy

TOPIC, QUEUE, CURSOR, PROCEDURE = "torture.events", "torture", "torture-tail", "torture.echo"
WORKERS = 16  # of each kind
FAULTS = ("freeze", "reset", "half-close", "delay")
FAST = {
    "ping_interval": 0.4,
    "ping_timeout": 0.4,
    "first_wait": 0.02,
    "max_wait": 0.2,
    "connect_timeout": 2.0,
    "timeout": 20.0,
}


@attrs.define(eq=False)
class Torture:
    """One run, and what has come of it."""

    count: int
    called: Counter[str] = attrs.field(factory=Counter)  # ends of calls
    stored: int = 0
    enqueued: int = 0
    tried_again: int = 0  # publications and jobs, by this program
    ids: list[int] = attrs.field(factory=list)  # of events, as they came
    numbers: list[int] = attrs.field(factory=list)  # what was in them
    plain: list[int] = attrs.field(factory=list)  # ids, as they came by the subscription without a cursor
    done: Counter[int] = attrs.field(factory=Counter)  # jobs
    gaps: int = 0
    notices: Counter[str] = attrs.field(factory=Counter)
    faults: Counter[str] = attrs.field(factory=Counter)
    problems: list[str] = attrs.field(factory=list)
    memory: list[float] = attrs.field(factory=list)  # MiB, early and at the end
    seconds: float = 0.0

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        reached = sum(self.called.values()) + self.stored + self.enqueued + len(self.ids) + len(self.done)
        return reached / (5 * self.count)

    def __str__(self) -> str:
        return (
            f"{self.count} of each in {self.seconds:.0f} s: calls {dict(self.called)}, {self.stored} stored,"
            f" {self.enqueued} enqueued ({self.tried_again} tried again), {len(self.ids)} events, {self.gaps} gaps,"
            f" {sum(self.done.values())} jobs done ({len(self.done)} different), faults {dict(self.faults)},"
            f" notices {dict(self.notices)}, memory {self.memory} MiB, problems {self.problems}"
        )


async def scenario(torture: Torture, url: str, library: Library) -> None:
    """Call, publish, enqueue, follow and work until all is done."""
    # The worker has no name: what was sent to it and has not arrived goes to the next at once, and not when its lease
    # has ended.
    names = ("torture-caller", "torture-server", "", "torture-reader")
    clients = [library.client(url, name=name, **FAST) for name in names]
    for client in clients:
        client.on("*", lambda notice: torture.notices.update([notice.kind]))
    caller, server, worker, reader = clients
    server.serve(PROCEDURE)(lambda number: number)
    worker.consume(QUEUE, lambda job: torture.done.update([job.payload]), prefetch=8, lease=30.0)
    events, plain = reader.subscribe(TOPIC, cursor=CURSOR), reader.subscribe(TOPIC)
    await library.gather(*(client.connect() for client in clients))
    await library.gather(*(client.settled() for client in clients))
    reading = library.gather(read(torture, reader, events), read_plainly(torture, plain))
    await library.gather(
        *(call(torture, caller, start) for start in range(WORKERS)),
        *(publish(torture, caller, library, start) for start in range(WORKERS)),
        *(enqueue(torture, caller, library, start) for start in range(WORKERS)),
    )
    await reading
    await library.until(lambda: len(torture.done) >= torture.count and not worker.stats().pending, 120)
    statistics = [client.stats() for client in clients]
    await library.gather(*(client.close() for client in clients))
    check_statistics(torture, [client.stats() for client in clients], statistics)
    for client in clients:
        left = len(client._core.pending), len(client._core.timers), len(client._core.registry.found)
        if left != (0, 0, 0):
            torture.problems.append(f"left in a client: {left}")


async def call(torture: Torture, client: Any, start: int) -> None:
    for number in range(start, torture.count, WORKERS):
        try:
            if await client.call(PROCEDURE, number, timeout=10.0) != number:
                torture.problems.append(f"call {number} has another's result")
            torture.called["ok"] += 1
        except ClientError as error:
            torture.called[error.code] += 1


async def publish(torture: Torture, client: Any, library: Library, start: int) -> None:
    for number in range(start, torture.count, WORKERS):
        while True:
            try:
                await client.publish(TOPIC, number, durable=True, key=f"k{number}")
                break
            except ClientError:
                torture.tried_again += 1
                await library.sleep(0.05)
        torture.stored += 1


async def enqueue(torture: Torture, client: Any, library: Library, start: int) -> None:
    for number in range(start, torture.count, WORKERS):
        while True:
            try:
                await client.enqueue(QUEUE, number, key=f"j{number}")
                break
            except ClientError:
                torture.tried_again += 1
                await library.sleep(0.05)
        torture.enqueued += 1


async def read(torture: Torture, client: Any, events: Any) -> None:
    async for event in events:
        torture.ids.append(event.id)
        torture.numbers.append(event.payload)
        if len(torture.ids) == torture.count // 5:
            torture.memory.append(memory())
        if event.id % 50 == 0:
            try:
                await client.ack(CURSOR, TOPIC, event.position)
            except ClientError:
                torture.tried_again += 1
        if len(torture.ids) >= torture.count:
            # Before the first event has come, nobody knows whether what comes is stored: "away".
            torture.gaps += sum(gap.why != "away" for gap in events.gaps)
            return


async def read_plainly(torture: Torture, events: Any) -> None:
    async for event in events:
        torture.plain.append(event.id)
        if len(torture.plain) >= torture.count:
            # Before the first event has come, nobody knows whether what comes is stored: "away".
            torture.gaps += sum(gap.why != "away" for gap in events.gaps)
            return


def check_statistics(torture: Torture, after: Sequence[Statistics], before: Sequence[Statistics]) -> None:
    for each in after:
        ended = each.succeeded + each.failed + each.timed_out + each.cancelled
        if each.started != ended + each.pending or each.pending:
            torture.problems.append(f"statistics do not add up: {each}")
    if before[3].events != 2 * torture.count:
        torture.problems.append(f"{before[3].events} events are counted")


def memory() -> float:
    """Return the resident memory of this process in MiB."""
    gc.collect()
    status = Path("/proc/self/status").read_text("ascii")
    return round(int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024, 1)


def check(torture: Torture) -> None:
    """Add what is wrong to the problems."""
    if sum(torture.called.values()) != torture.count:
        torture.problems.append(f"{torture.count - sum(torture.called.values())} calls have not ended")
    if torture.ids != list(range(1, torture.count + 1)):
        torture.problems.append("events are missing, or came twice, or out of order")
    if torture.plain != list(range(1, torture.count + 1)):
        torture.problems.append("the same without a cursor")
    if sorted(torture.numbers) != list(range(torture.count)):
        torture.problems.append("publications are missing, or stored twice")
    if torture.gaps:
        torture.problems.append("gaps of stored events are told")
    if set(torture.done) != set(range(torture.count)):
        torture.problems.append("jobs are missing")
    gc.collect()
    left = [each for each in gc.get_objects() if isinstance(each, Operation) and not each.ended]
    if left:
        torture.problems.append(f"{len(left)} operations have not ended: {[each.data[:80] for each in left[:3]]}")
    torture.memory.append(memory())
    if len(torture.memory) > 1 and torture.memory[-1] > torture.memory[0] * 1.25 + 20:
        torture.problems.append("memory has grown")


class Disturbed(Protocol):
    """What the network fails, and how far it has come, from 0 to 1."""

    faults: Counter[str]

    @property
    def progress(self) -> float: ...


async def disturb(torture: Disturbed, proxy: Proxy, kind: str, chance: random.Random) -> None:
    """Do one thing to the network."""
    torture.faults[kind] += 1
    if kind == "reset":
        proxy.reset()
    elif kind == "half-close":
        for pair in list(proxy._pairs):
            end = chance.choice([pair.near, pair.far])
            if end.transport is not None:
                end.transport.loseWriteConnection()
    else:
        proxy.hold()
        await pause(chance.uniform(0.8, 1.5) if kind == "freeze" else chance.uniform(0.02, 0.2))
        proxy.heal()


async def disturb_all(
    torture: Disturbed, daemon: Daemon, proxy: Proxy, plan: Sequence[str], chance: random.Random
) -> None:
    """Do all of *plan*, spread over the progress."""
    for index, kind in enumerate(plan):
        while torture.progress < 0.95 * index / len(plan) or torture.progress == 0:
            await pause(0.01)
        if kind == "restart":
            torture.faults[kind] += 1
            await (daemon.stop() if chance.random() < 0.5 else daemon.kill())
            await daemon.start()
        else:
            await disturb(torture, proxy, kind, chance)
        await pause(chance.uniform(0.02, 0.1))


async def run(driver: str, count: int, faults: int, restarts: int, seed: int = 1, timeout: float = 1800.0) -> Torture:
    """Torture the client of *driver* and return what came of it."""
    chance, torture, library = random.Random(seed), Torture(count), LIBRARIES[driver]
    plan = [FAULTS[index % len(FAULTS)] for index in range(faults)] + ["restart"] * restarts
    chance.shuffle(plan)
    directory = Path(tempfile.mkdtemp(prefix="txbroker-"))
    daemon = await Daemon(directory).start()
    proxy = await Proxy(daemon.port).start()
    began = time.monotonic()
    try:
        disturbing = Deferred.fromCoroutine(disturb_all(torture, daemon, proxy, plan, chance))
        disturbing.addErrback(lambda failure: torture.problems.append(f"the tool has failed: {failure}"))
        url = f"ws://127.0.0.1:{proxy.port}/v1/ws"
        await library.run(lambda library: scenario(torture, url, library), timeout)
        torture.seconds = time.monotonic() - began
        disturbing.cancel()
        check(torture)
        torture.problems += [line[:200] for line in daemon.troubles()[:3]]
    finally:
        await proxy.stop()
        if daemon.running:
            await daemon.stop()
        shutil.rmtree(directory)
    return torture


def main(reactor: object) -> Deferred[None]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--driver", choices=sorted(LIBRARIES), default="twisted")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()

    async def torture() -> None:
        found = await run(given.driver, given.count, given.faults, given.restarts, given.seed)
        print(found)
        raise SystemExit(1 if found.problems else 0)

    work: Coroutine[Deferred[Any], Any, None] = torture()
    return Deferred.fromCoroutine(work)


if __name__ == "__main__":
    react(main)
