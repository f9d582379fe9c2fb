"""Kills workers and brokers at random while jobs are done: all are done at least once, and none is lost.

Usage: ``python -m tests.faults.jobs [--nodes 1|3] [--jobs 10000] [--workers 8] [--kills 10] [--http]``.  A worker is
killed every 200 ms, and a broker, or one of three nodes, so many times.  Every hundredth job fails for ever.  With
``--http`` the workers claim jobs over the HTTP API: then the death of one is a failure, when its lease has ended.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from tests.bridge.clients import OwlMeans
from tests.support.cluster import Cluster
from tests.support.daemon import ROOT, Daemon, clean_environ
from tests.support.eventually import pause
from tests.support.processes import Program

QUEUE = "tortured"
POISON = 100
LEASE = 60.0  # seconds: only a loss returns a job of a worker that lives
HTTP_LEASE = 5.0  # seconds: the same for one without a session
WORK = 0.02  # seconds that a job may take
WORKER_LIFE = 0.2  # seconds between two kills of a worker
ENVIRON = {"TXBROKER_NODE_LEASE_SECONDS": "3"}


@attrs.define
class Torture:
    """One run.

    Attributes:
        nodes: the brokers.
        source: forks workers, and says what they say.
        adder: adds jobs.
        killed: the process IDs of the workers that were killed.
        over_http: whether the workers claim jobs over the HTTP API.
        problems: what broke a promise.
    """

    nodes: list[Daemon]
    jobs: int
    directory: Path
    chance: random.Random
    over_http: bool = False
    source: Program = attrs.field(init=False)
    adder: Program = attrs.field(init=False)
    killed: set[int] = attrs.field(factory=set)
    kills: int = 0
    problems: list[str] = attrs.field(factory=list)
    figures: dict[str, Any] = attrs.field(factory=dict)

    def start(self, workers: int) -> None:
        """Add the jobs, and let so many work."""
        role, lease = ("claim", HTTP_LEASE) if self.over_http else ("work", LEASE)
        self.adder, self.source = self._program("add", self.jobs, POISON), self._program(role, lease, WORK)
        for _ in range(workers):
            self.source.say("another")

    def _program(self, role: str, *words: object) -> Program:
        urls = ",".join(node.ws("/owlmeans") for node in self.nodes)
        command = [sys.executable, "-m", "tests.faults.job_worker", role, urls, QUEUE, *map(str, words)]
        return Program.start(command, env=clean_environ(self.directory), cwd=ROOT)

    async def kill_workers(self, busy: list[bool]) -> None:
        """Kill one after the other, and start another in its place."""
        while busy:
            await pause(WORKER_LIFE)
            begun = {int(line.split()[0]) for line in self.source.lines if " start " in line} - self.killed
            if begun:  # else a slow machine would start them only
                worker = self.chance.choice(sorted(begun))
                self.killed.add(worker)
                os.kill(worker, signal.SIGKILL)
                self.source.say("another")

    async def end(self) -> None:
        """Kill all that were started."""
        if self.source.status is None:
            os.killpg(self.source.pid, signal.SIGKILL)
        await self.adder.end()
        await self.source.end()

    async def kill_brokers(self, kills: int, busy: list[bool]) -> None:
        done = 0
        while busy and done < kills:
            await pause(1.0 + 2.0 * self.chance.random())
            node = self.chance.choice(self.nodes)
            await node.kill()
            await node.restart()
            done += 1
            self.kills = done

    async def state(self) -> dict[str, int]:
        client = await OwlMeans.join(self.chance.choice(self.nodes))
        try:
            found: dict[str, int] = await client.ask("broker.queue", QUEUE)
            return found
        finally:
            client.socket.close()

    async def until_done(self, timeout: float) -> None:
        end = reactor.seconds() + timeout
        poison = len(range(0, self.jobs, POISON))
        while True:
            try:
                state = await self.state()
            except Exception:
                state = {}  # it was killed just now
            left = state.get("depth", 1) + state.get("delayed", 1) + state.get("in_flight", 1)
            if not left and (state["dead"] == poison or (self.over_http and state["dead"] > poison)):
                self.figures["dead"] = state["dead"]
                return
            if reactor.seconds() > end:
                self.problems.append(f"after {timeout} s there is {state}, and {poison} should be dead")
                return
            await pause(0.3)

    def judge(self) -> None:
        """Look at what the workers have said."""
        starts: defaultdict[int, list[int]] = defaultdict(list)
        for line in [*self.source.lines, *self.adder.lines]:
            words = line.split()
            if len(words) == 4 and words[1] == "start":
                starts[int(words[2])].append(int(words[3]))
            elif len(words) > 1 and words[1] not in ("start", "done", "lost", "added"):
                self.problems.append(f"a program said: {line}")
        lost = [number for number in range(self.jobs) if number not in starts]
        if lost:
            self.problems.append(f"{len(lost)} jobs were never delivered: {lost[:10]}")
        for number, deliveries in starts.items():
            twice = [delivery for delivery, times in Counter(deliveries).items() if times > 1]
            if twice:
                self.problems.append(f"job {number} had the deliveries {sorted(deliveries)}")
            # One that is killed before it has begun with a job that it has claimed has failed, too.
            if number % POISON == 0 and max(deliveries) < 5 and not self.over_http:
                self.problems.append(f"poison {number} was dead after {max(deliveries)} deliveries")
        self.figures |= {
            "jobs": self.jobs,
            "deliveries": sum(map(len, starts.values())),
            "workers killed": len(self.killed),
            "brokers killed": self.kills,
        }


async def run(
    nodes: int, jobs: int, workers: int, kills: int, *, seed: int = 1, timeout: float = 1800.0, over_http: bool = False
) -> Torture:
    """Return what has become of so many jobs."""
    with tempfile.TemporaryDirectory(prefix="txbroker-") as name:
        directory = Path(name)
        cluster = await Cluster.new(nodes, **ENVIRON).start() if nodes > 1 else None
        daemons = cluster.nodes if cluster else [await Daemon(directory, **ENVIRON).start()]
        torture = Torture(daemons, jobs, directory, random.Random(seed), over_http)
        try:
            await _torture(torture, workers, kills, timeout)
        finally:
            await torture.end()
            if cluster is not None:
                cluster.provoked.append("was lost: Redis can not be used")  # of a node that has just been started
                await cluster.end()
            elif daemons[0].running:
                await daemons[0].stop()
    torture.judge()
    return torture


async def _torture(torture: Torture, workers: int, kills: int, timeout: float) -> None:
    torture.start(workers)
    busy = [True]
    killers = [
        Deferred.fromCoroutine(torture.kill_workers(busy)),
        Deferred.fromCoroutine(torture.kill_brokers(kills, busy)),
    ]
    await torture.adder.line(lambda line: "added" in line, timeout)
    if kills:
        await killers[1]
    await torture.until_done(timeout)
    busy.clear()
    for killer in killers:
        await killer


async def _main(_: object, arguments: argparse.Namespace) -> None:
    numbers = arguments.nodes, arguments.jobs, arguments.workers, arguments.kills
    torture = await run(*numbers, seed=arguments.seed, over_http=arguments.http)
    print(torture.figures, *torture.problems, sep="\n")
    if torture.problems:
        raise SystemExit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for option, default in (("nodes", 1), ("jobs", 10_000), ("workers", 8), ("kills", 10), ("seed", 1)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--http", action="store_true", help="the workers claim jobs over the HTTP API")
    react(lambda reactor: Deferred.fromCoroutine(_main(reactor, parser.parse_args())))
