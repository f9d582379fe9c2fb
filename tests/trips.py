"""Counts the files that a message passes, and writes them into docs/architecture.rst.

``python -m tests.trips`` prints them, with the functions; ``python -m tests.trips --write`` changes the page.
Each trip goes several times through real daemons, on connections that are open already.  What counts
was entered every time, and not because a timer was due.
"""

from __future__ import annotations

import ast
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.web.client import HTTPConnectionPool

from tests.bridge.clients import Ganomede, Hpkv, OwlMeans
from tests.support.cluster import Cluster
from tests.support.daemon import Daemon
from tests.support.eventually import pause
from tests.support.http_client import get
from tests.support.profiled import ROOT, SIGN

PAGE = ROOT / "docs" / "architecture.rst"
BEGIN, END = ".. Written by tests/trips.py:\n\n", ".. The end of what tests/trips.py writes.\n"
WARM, ROUNDS = 2, 3  # the first do not count: much is done only once

Files = dict[str, list[str]]  # functions by file, both in the order in which they were entered first
Round = Callable[[], Awaitable[None]]


class ProfiledDaemon(Daemon):
    """A daemon that tells which of its files it has entered."""

    runs = (sys.executable, "-m", "tests.support.profiled")

    def __init__(self, directory: Path, **environ: str) -> None:
        # The accelerator is not built everywhere, and what it does is Python code elsewhere.
        super().__init__(directory, **{"TXBROKER_SPEEDUPS": "off", **environ})

    async def entered(self) -> Files:
        """Return what it has entered since it was last asked, once it has nothing more to do."""
        report = await self._report()
        files = report
        while report != (report := await self._report()):  # what the question itself causes
            files = {file: files.get(file, []) + report.get(file, []) for file in files | report}
            await pause(0.02)
        return files

    async def _report(self) -> Files:
        self.program.signal(signal.SIGUSR2)
        line = await self.program.line(lambda line: line.startswith(SIGN))
        files: Files = json.loads(line.removeprefix(SIGN))
        return files


class ProfiledCluster(Cluster):
    """Nodes that do so."""

    node_class = ProfiledDaemon


@attrs.frozen
class Trip:
    """What it is, and the files that it passes on each node it comes to."""

    title: str
    nodes: dict[str, Files]

    @property
    def files(self) -> set[str]:
        return {file for files in self.nodes.values() for file in files}

    def rst(self) -> str:
        """Return it as reStructuredText."""
        text = f"{self.title}\n{'~' * len(self.title)}\n\n"
        for node, files in self.nodes.items():
            where = f" {node}" if node else ""
            text += f"It passes {len(files)} files{where}:\n\n"
            text += "".join(f"#. ``{file}``: {summary(file)}\n" for file in files) + "\n"
        return text if len(self.nodes) == 1 else text + f"These are {len(self.files)} different files.\n\n"


def summary(file: str) -> str:
    """Return what *file* says that it is: the first sentence of its docstring."""
    docstring = ast.get_docstring(ast.parse((ROOT / file).read_text("utf-8"))) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return paragraph.partition(".  ")[0].partition(". ")[0].removesuffix(".") + "."


async def count(title: str, nodes: dict[str, ProfiledDaemon], go: Round, prepare: Round | None = None) -> Trip:
    """Return the trip that *go* makes through *nodes*, each time after *prepare*."""
    rounds: list[dict[str, Files]] = []
    for _ in range(WARM + ROUNDS):
        if prepare is not None:
            await prepare()
        await go()
        rounds.append({name: await daemon.entered() for name, daemon in nodes.items()})
    return Trip(title, {name: common([entered[name] for entered in rounds[WARM:]]) for name in nodes})


def common(rounds: list[Files]) -> Files:
    """Return the functions that were entered in each of *rounds*, in the order of the last."""
    shared = set.intersection(*({(file, name) for file in files for name in files[file]} for files in rounds))
    kept = {
        file: [name for name in dict.fromkeys(names) if (file, name) in shared] for file, names in rounds[-1].items()
    }
    return {file: names for file, names in kept.items() if names}


async def event_to_poll(daemon: ProfiledDaemon) -> Trip:
    pool = HTTPConnectionPool(reactor)
    ganomede = Ganomede(daemon, pool=pool)
    polls: list[Deferred] = []
    last = 0

    async def wait() -> None:
        polls.append(ganomede.poll("trips", after=last))
        while not any(file.startswith("protocols/ganomede/") for file in await daemon.entered()):
            pass  # it has not come yet

    async def post() -> None:
        nonlocal last
        last = (await ganomede.post("trips", "{}"))["id"]
        answer = await polls.pop()
        assert [event["id"] for event in answer.json()] == [last]

    trip = await count("A ganomede POST to a waiting poll", {"": daemon}, post, wait)
    await pool.closeCachedConnections()
    return trip


async def call_and_result(daemon: ProfiledDaemon) -> Trip:
    caller, callee = await OwlMeans.join(daemon), await OwlMeans.join(daemon)
    callee.emulator.perform("trips.add", lambda a, b: a + b)
    await callee.ask("broker.register", ["trips.add"])

    async def call() -> None:
        caller.begin("trips.add", "1", "2")
        await callee.next("call")
        assert json.loads(await caller.next("answer"))["payload"] == 3

    trip = await count("A call and its result", {"": daemon}, call)
    for client in (caller, callee):
        await client.socket.close()
    return trip


async def change_to_another_node(one: ProfiledDaemon, other: ProfiledDaemon) -> Trip:
    writer, watcher = await Hpkv.join(one), await Hpkv.watcher(other, "trips")

    async def change() -> None:
        await writer.set("trips", "1")
        assert (await watcher.notification())["key"] == "trips"

    nodes = {"on the node of the writer": one, "on the node of the watcher": other}
    trip = await count("A key change to another node", nodes, change)
    for client in (writer, watcher):
        await client.socket.close()
    return trip


async def all_trips() -> list[Trip]:
    """Make the three trips; return them."""
    return [*await trips_of_one_node(), await trip_between_nodes()]


async def trips_of_one_node() -> list[Trip]:
    directory = Path(tempfile.mkdtemp(prefix="txbroker-"))
    daemon = ProfiledDaemon(directory, TXBROKER_POLL_TIMEOUT_SECONDS="60")
    try:
        await daemon.start()
        trips = [await event_to_poll(daemon), await call_and_result(daemon)]
        await daemon.stop()
        return trips
    finally:
        if daemon.running:
            await daemon.kill()
        shutil.rmtree(directory)


async def trip_between_nodes() -> Trip:
    cluster = ProfiledCluster.new(2)
    await cluster.start()
    try:
        for node in cluster.nodes:
            while (await get(node.url + "/ready")).status != 200:
                await pause(0.02)
        return await change_to_another_node(*cast(list[ProfiledDaemon], cluster.nodes))
    finally:
        await cluster.end()


def page_with(trips: list[Trip]) -> str:
    """Return docs/architecture.rst with *trips* instead of those it has."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "".join(trip.rst() for trip in trips) + END + after


async def main(*words: str) -> None:
    trips = await all_trips()
    for trip in trips:
        for node, files in trip.nodes.items():
            print(f"{trip.title} {node}: {len(files)} files")
            print(*(f"  {file}: {', '.join(names)}" for file, names in files.items()), sep="\n")
    if "--write" in words:
        PAGE.write_text(page_with(trips), "utf-8")


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(*sys.argv[1:])))
