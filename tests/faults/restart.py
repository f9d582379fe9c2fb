"""Restarts a broker under many shipped clients of all dialects: all come back, and nothing durable is lost or doubled.

Usage: ``python -m tests.faults.restart [--clients 2000] [--signal TERM|KILL]``.  One node on SQLite has
clients of five dialects, hundreds in each Node process, while events are posted to the channels of the
ganomede readers.  It is ended by the signal (both, one after the other, if none is named) and started again.

A client is back when the broker has done something for it: delivered an event that was posted after
the start, answered a call, stored a key, brought a message of its room.  The processes of the clients have a
lower priority than the broker, since they stand for other machines.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from tests.faults.clients import NOT_REACHED
from tests.support.daemon import Daemon
from tests.support.eventually import TIMEOUT, eventually, pause
from tests.support.http_client import get, post
from tests.support.node import Node
from tests.support.processes import Program

KINDS = ("ganomede", "hpkv", "microstream", "thinws", "owlmeans")
SECRET, KEY = "the-secret-of-all-of-them", "the-key-of-hpkv"
CHANNELS = [f"restart-{number}" for number in range(10)]
FEW = 100  # clients that one process has of all kinds; where there are more, each has one kind
MANY = 400  # clients of one process
LOWER = 10  # the nice value of the clients
MAX_AWAY = 4.0  # seconds: an HPKV client gives up 8 s after it was closed, and tries for the second time after 3 to 4
POLLS = 250  # a second, at most, that events are followed by
ENVIRON = {
    "TXBROKER_API_SECRET": SECRET,
    "TXBROKER_API_KEYS": f"restart:{KEY}",
}

Client = tuple[str, int]  # its kind and its number


class Fleet:
    """The clients of one broker, in some Node processes, and what they have said.

    Attributes:
        clients: all there are.
        ups: when each was up, in seconds since the epoch.
        given_up: those that will not come back, and why; -1 for one of a process whose number is not known.
        closes: how often which clients were closed with which code or words.
    """

    def __init__(self, daemon: Daemon, count: int) -> None:
        self.clients: list[Client] = []
        self.ups: dict[Client, list[float]] = defaultdict(list)
        self.given_up: list[tuple[Client, str]] = []
        self.closes: Counter[str] = Counter()
        self._daemon, self._node = daemon, Node()
        self._heard: dict[Program, int] = {}
        self._reports: dict[Program, list[dict[str, Any]]] = {}
        if count <= FEW:
            self._start(0, count, KINDS)
        else:
            for number, kind in enumerate(KINDS):
                share = count // len(KINDS) + (number < count % len(KINDS))
                for first in range(0, share, MANY):
                    self._start(number * count + first, min(MANY, share - first), (kind,))

    def _start(self, first: int, count: int, kinds: Sequence[str]) -> None:
        words = (self._daemon.url, SECRET, KEY, str(first), str(count), ",".join(kinds))
        program = self._node.start("restart_clients.js", *words)
        os.setpriority(os.PRIO_PROCESS, program.pid, LOWER)
        self._heard[program] = 0
        self.clients += [(kinds[n % len(kinds)], n) for n in range(first, first + count)]

    def hear(self) -> None:
        """Note what they have said since the last time."""
        for program, heard in self._heard.items():
            lines = program.lines[heard:]
            self._heard[program] += len(lines)
            for line in lines:
                self._note(program, json.loads(line)) if line.startswith("[") else print(line, file=sys.stderr)
            assert program.status is None, f"clients have ended: {program.report()[-2000:]}"

    def _note(self, program: Program, said: list[Any]) -> None:
        if said[0] == "report":
            self._reports[program] = said[1]
            return
        what, kind, number, milliseconds, more = said
        if what == "up":
            self.ups[kind, number].append(milliseconds / 1000)
        elif what == "given up":
            self.given_up.append(((kind, number), str(more)))
        else:
            self.closes[f"{kind} {more}"] += 1

    def back(self, since: float) -> dict[Client, float]:
        """Return after how many seconds each client was up again that has been up *since* then."""
        self.hear()
        found = {client: next((up for up in self.ups[client] if up > since), 0.0) for client in self.clients}
        return {client: up - since for client, up in found.items() if up}

    async def read(self) -> list[dict[str, Any]]:
        """Return what each reader of a channel has read: its number ``n``, ``channel``, ``ids``, ``acknowledged``."""
        self._reports.clear()
        for program in self._heard:
            program.say("report")

        def told() -> bool:
            self.hear()
            return len(self._reports) == len(self._heard)

        await eventually(told)
        return [reader for report in self._reports.values() for reader in report]

    async def end(self) -> None:
        """End the processes."""
        await self._node.end()


@attrs.define
class Restart:
    """What one restart has done.

    Attributes:
        signal: by which the broker was ended.
        ending: after how many seconds it had ended.
        away: for how many seconds it could not be reached.
        back: the seconds from the signal until each client was back.
        missing: the clients that have not come back.
        given_up: those that will not, and why.
        acknowledged: how many events were acknowledged so far.
        lost: the acknowledged events that a reader has not read: its number, and the id.
        doubled: the events that a reader has read twice, or is given again behind its cursor.
        closes: how often which clients were closed with which code or words.
        memory: the most MiB that the broker had after the start.
        warnings: what the log has warned of since the start, and how often.
        troubles: lines of the log that tell of an error.
    """

    signal: signal.Signals
    ending: float = 0.0
    away: float = 0.0
    back: dict[Client, float] = attrs.field(factory=dict)
    missing: list[Client] = attrs.field(factory=list)
    given_up: list[tuple[Client, str]] = attrs.field(factory=list)
    acknowledged: int = 0
    lost: list[tuple[int, int]] = attrs.field(factory=list)
    doubled: list[tuple[int, int]] = attrs.field(factory=list)
    closes: Counter[str] = attrs.field(factory=Counter)
    memory: int = 0
    warnings: Counter[str] = attrs.field(factory=Counter)
    troubles: list[str] = attrs.field(factory=list)

    @property
    def problems(self) -> dict[str, list[Any]]:
        """What broke a promise: an HPKV client may give up if the broker is away for longer than :data:`MAX_AWAY`."""
        given_up = [case for case in self.given_up if case[0][0] != "hpkv" or self.away <= MAX_AWAY]
        excused = {client for client, _ in self.given_up} - {client for client, _ in given_up}
        found: dict[str, list[Any]] = {
            "not back": [client for client in self.missing if client not in excused],
            "given up": list(given_up),
            "lost": list(self.lost),
            "doubled": list(self.doubled),
            "errors": list(self.troubles),
        }
        return {what: cases[:10] for what, cases in found.items() if cases}

    def __str__(self) -> str:
        return "\n  ".join(self._lines())

    def _lines(self) -> Iterator[str]:
        away = f"ended after {self.ending:.2f} s, away for {self.away:.2f} s"
        yield f"{self.signal.name}: {away}, {_times(list(self.back.values()))}"
        for kind in KINDS:
            own = [seconds for (other, _), seconds in self.back.items() if other == kind]
            yield f"{kind:<12} {_times(own)}"
        yield f"not back {len(self.missing)}, given up {len(self.given_up)}"
        yield f"{self.acknowledged} events acknowledged, lost {len(self.lost)}, doubled {len(self.doubled)}"
        yield f"closes: {dict(sorted(self.closes.items()))}"
        yield f"memory of the broker: {self.memory} MiB at most"
        for text, count in self.warnings.most_common(5):
            yield f"warned {count} times: {text}"
        for what, cases in self.problems.items():
            yield f"BROKEN: {what}: {cases}"


def _times(seconds: list[float]) -> str:
    if not seconds:
        return "none back"
    return f"{len(seconds)} back: median {median(seconds):.2f} s, last {max(seconds):.2f} s"


class Restarts:
    """A broker that is restarted under its clients, while events are posted.

    Args:
        daemon: started.
        clients: how many.
    """

    def __init__(self, daemon: Daemon, clients: int) -> None:
        self.daemon = daemon
        self.acknowledged: dict[str, list[int]] = {channel: [] for channel in CHANNELS}
        self.fleet = Fleet(daemon, clients)
        self._posting = True
        # Each event is read by all readers of its channel, and each of them polls again.
        self._pause = clients / len(KINDS) / len(CHANNELS) / POLLS

    async def run(self, signals: Sequence[signal.Signals]) -> list[Restart]:
        """Restart by each of *signals*."""
        try:
            await self._all_back(await self._marked(time.time()))
            posting = Deferred.fromCoroutine(self._post_on())
            done = [await self._restart(number) for number in signals]
            self._posting = False
            await posting
            return done
        finally:
            await self.fleet.end()

    async def _restart(self, number: signal.Signals) -> Restart:
        self.fleet.hear()
        self.fleet.closes.clear()
        daemon, began = self.daemon, time.time()
        await (daemon.kill() if number is signal.SIGKILL else daemon.stop())
        ended = time.time()
        await daemon.start()
        ready = time.time()
        await self._marked(began)
        back = await self._all_back(began)
        restart = Restart(number, ended - began, ready - began, back, sorted(set(self.fleet.clients) - set(back)))
        restart.given_up, restart.closes = list(self.fleet.given_up), Counter(self.fleet.closes)
        restart.acknowledged = sum(map(len, self.acknowledged.values()))
        await self._compare(restart)
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        restart.memory = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) // 1024
        own = [json.loads(line) for line in daemon.program.lines if line.startswith("{")]
        restart.warnings = Counter(str(event["msg"]) for event in own if event["level"] == "warn")
        restart.troubles = daemon.troubles()
        return restart

    async def _all_back(self, since: float) -> dict[Client, float]:
        """Return after how many seconds each came back; those that have not within the limit are left out."""
        fleet = self.fleet
        end = time.monotonic() + TIMEOUT
        while len(back := fleet.back(since)) < len(fleet.clients) and time.monotonic() < end:
            if set(fleet.clients) <= {*back, *(client for client, _ in fleet.given_up)}:
                break
            await pause(0.05)
        return back

    async def _marked(self, since: float) -> float:
        """Post an event that shows its readers to be there to each channel; return *since*."""
        for channel in CHANNELS:
            while not await self._post(channel, "mark"):
                await pause(0.05)
        return since

    async def _post_on(self) -> None:
        while self._posting:
            for channel in CHANNELS:
                await self._post(channel, "event")
                await pause(self._pause)

    async def _post(self, channel: str, name: str) -> bool:
        """Post an event, and note its id if it was acknowledged."""
        event = {"clientId": "writer", "secret": SECRET, "channel": channel, "from": "restart", "type": name}
        try:
            answer = await post(f"{self.daemon.url}/events/v1/events", event)
        except NOT_REACHED:
            return False
        if answer.status == 200:
            self.acknowledged[channel].append(answer.json()["id"])
        return answer.status == 200

    async def _compare(self, restart: Restart) -> None:
        """Compare what the readers have read, and will be given next, with what was acknowledged."""
        wanted = {channel: set(ids) for channel, ids in self.acknowledged.items()}

        def lost(readers: list[dict[str, Any]]) -> list[tuple[int, int]]:
            return [(one["n"], id) for one in readers for id in sorted(wanted[one["channel"]].difference(one["ids"]))]

        end = time.monotonic() + TIMEOUT
        while lost(readers := await self.fleet.read()) and time.monotonic() < end:
            await pause(0.1)
        restart.lost = lost(readers)
        for reader in readers:
            counts = Counter(reader["ids"])
            restart.doubled += [(reader["n"], id) for id, count in counts.items() if count > 1]
        again = await gatherResults([Deferred.fromCoroutine(self._given_again(reader)) for reader in readers])
        restart.doubled += [pair for pairs in again for pair in pairs]

    async def _given_again(self, reader: dict[str, Any]) -> list[tuple[int, int]]:
        """Return what a new process of *reader* would get though the old one has acknowledged it."""
        query = f"clientId=reader-{reader['n']}&channel={reader['channel']}&secret={SECRET}"
        answer = await get(f"{self.daemon.url}/events/v1/events?{query}&limit=1")
        assert answer.status == 200, answer.text
        return [(reader["n"], event["id"]) for event in answer.json() if event["id"] <= reader["acknowledged"]]


def raise_file_limit() -> None:
    """Let this process and its children open as many files as they may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def run(clients: int, signals: Sequence[signal.Signals], **environ: str) -> list[Restart]:
    """Restart a broker of its own by each of *signals*, with so many *clients*."""
    raise_file_limit()
    directory = Path(tempfile.mkdtemp(prefix="txbroker-"))
    daemon = Daemon(directory, **{**ENVIRON, **environ})
    try:
        return await Restarts(await daemon.start(), clients).run(signals)
    finally:
        if daemon.running:
            await daemon.stop()
        shutil.rmtree(directory)


def main() -> None:
    """Run what the arguments say; end with status 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--signal", choices=("TERM", "KILL"), action="append")
    chosen = parser.parse_args()
    signals = [signal.Signals[f"SIG{name}"] for name in chosen.signal or ("TERM", "KILL")]

    async def work(_: Any) -> None:
        restarts = await run(chosen.clients, signals)
        print(*restarts, sep="\n")
        if any(restart.problems for restart in restarts):
            raise SystemExit(1)

    react(lambda reactor: Deferred.fromCoroutine(work(reactor)))


if __name__ == "__main__":
    main()
