"""The JavaScript client, under Node, behind a network that fails, and a broker that is restarted.

``python -m tests.faults.javascript_torture [--count 2000] [--faults 100] [--restarts 5]`` does what
``tests.faults.clients_torture`` does with the Python client.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from tests.faults.clients_torture import FAULTS, disturb_all
from tests.support.daemon import Daemon
from tests.support.node import Node
from tests.support.processes import Program
from tests.support.proxy import Proxy


@attrs.define(eq=False)
class JavaScriptTorture:
    """One run, and what has come of it."""

    count: int
    program: Program | None = None
    faults: Counter[str] = attrs.field(factory=Counter)
    problems: list[str] = attrs.field(factory=list)
    said: dict[str, Any] = attrs.field(factory=dict)
    seconds: float = 0.0

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        lines = self.program.lines if self.program is not None else []
        said = next((line for line in reversed(lines) if line.startswith('["progress"')), '["progress",0]')
        return float(json.loads(said)[1])

    def __str__(self) -> str:
        said, shown = self.said, ("called", "stored", "enqueued", "triedAgain", "gaps", "notices", "memory")
        counted = ", ".join(f"{name} {said.get(name)}" for name in shown)
        summed = {
            name: sum(each[name] for each in said.get("statistics", [])) for name in ("resent", "duplicates", "losses")
        }
        return (
            f"{self.count} of each in {self.seconds:.0f} s: {counted}, {len(said.get('ids', []))} events,"
            f" {sum(said.get('done', {}).values())} jobs done ({len(said.get('done', {}))} different), {summed},"
            f" faults {dict(self.faults)}, problems {self.problems}"
        )


def check(torture: JavaScriptTorture) -> None:
    """Add what is wrong to the problems."""
    said, count, problems = torture.said, torture.count, torture.problems
    problems += said["problems"]
    if sum(said["called"].values()) != count:
        problems.append(f"{count - sum(said['called'].values())} calls have not ended")
    if said["ids"] != list(range(1, count + 1)) or said["events"] != count:
        problems.append("events are missing, or came twice, or out of order")
    if sorted(said["numbers"]) != list(range(count)):
        problems.append("publications are missing, or stored twice")
    if set(map(int, said["done"])) != set(range(count)):
        problems.append("jobs are missing")
    for each in said["statistics"]:
        ended = each["succeeded"] + each["failed"] + each["timedOut"] + each["cancelled"]
        if each["started"] != ended or each["pending"] or each["buffered"] or each["bufferedBytes"]:
            problems.append(f"statistics do not add up: {each}")
    if said["memory"][-1] > said["memory"][0] * 1.25 + 20:
        problems.append(f"memory has grown: {said['memory']}")


async def run(count: int, faults: int, restarts: int, seed: int = 1, timeout: float = 1500.0) -> JavaScriptTorture:
    """Torture the client and return what came of it."""
    chance, torture, node = random.Random(seed), JavaScriptTorture(count), Node()
    plan = [FAULTS[index % len(FAULTS)] for index in range(faults)] + ["restart"] * restarts
    chance.shuffle(plan)
    directory = Path(tempfile.mkdtemp(prefix="txbroker-"))
    daemon = await Daemon(directory).start()
    proxy = await Proxy(daemon.port).start()
    began = time.monotonic()
    try:
        url = f"ws://127.0.0.1:{proxy.port}/v1/ws"
        torture.program = node.start("javascript_torture.mjs", url, str(count), NODE_OPTIONS="--expose-gc")
        disturbing = Deferred.fromCoroutine(disturb_all(torture, daemon, proxy, plan, chance))
        disturbing.addErrback(lambda failure: torture.problems.append(f"the tool has failed: {failure}"))
        status = await torture.program.exit(timeout)
        torture.seconds = time.monotonic() - began
        disturbing.cancel()
        ends = [line for line in torture.program.lines if line.startswith('["end"')]
        if status == 0 and ends:
            torture.said = json.loads(ends[0])[1]
            check(torture)
        else:
            torture.problems.append("\n".join(torture.program.lines[-20:])[-4000:])
        torture.problems += [line[:200] for line in daemon.troubles()[:3]]
    finally:
        await node.end()
        await proxy.stop()
        if daemon.running:
            await daemon.stop()
        shutil.rmtree(directory)
    return torture


def main(reactor: object) -> Deferred[None]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()

    async def torture() -> None:
        found = await run(given.count, given.faults, given.restarts, given.seed)
        print(found)
        raise SystemExit(1 if found.problems else 0)

    work: Coroutine[Deferred[Any], Any, None] = torture()
    return Deferred.fromCoroutine(work)


if __name__ == "__main__":
    react(main)
