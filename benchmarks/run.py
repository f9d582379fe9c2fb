"""Our goals, each measured beside its peer in one run: A B A B, pinned, median of the rounds.

What counts is the server's CPU time per operation; machines are noisy, ratios
of one run are not.  Usage: ``python -m benchmarks [--only P1,P4] [--rounds 3] [--seconds 3] [--save] [--with guarded]``
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.goals import GOALS, IDLE, Goal, Side
from benchmarks.peer_servers import Ws, install_peers
from benchmarks.results import Result, Results, Spread
from benchmarks.servers import LOAD_CORE, Broker, Missing, Server, build_load, pin
from benchmarks.variants import VARIANTS, goals_with

Figures = dict[str, Any]


def measure(binary: Path, server: Server, side: Side, seconds: float, timeout: float = 60.0) -> Figures:
    """Put one load on a running server and return what was seen; *timeout*: seconds that it may take besides."""
    pids = ",".join(map(str, server.pids()))
    command = [
        str(binary),
        "-k",
        side.kind,
        "-p",
        str(server.port),
        "-q",
        str(server.service_port),
        "-u",
        side.path or server.path,
        "-d",
        str(seconds),
        "-P",
        pids,
    ]
    done = subprocess.run(
        [*command, *side.load],
        capture_output=True,
        text=True,
        timeout=seconds + timeout,
        preexec_fn=lambda: pin(LOAD_CORE),
    )
    if not done.stdout.strip():
        raise Missing(f"no figures: {done.stderr.strip()[-300:]}")
    figures: Figures = json.loads(done.stdout)
    if figures["errors"]:
        print(f"  {server.name}: {figures['errors']} errors: {done.stderr.strip()[:300]}", file=sys.stderr)
    if figures.get("load_share", 0) > 0.95 > figures.get("server_share", 1):
        print(f"  {server.name}: the load generator was the bottleneck", file=sys.stderr)
    return figures


def compare(goal: Goal, binary: Path, rounds: int, seconds: float) -> Result:
    """Measure ours and the others in turn, again and again.

    Raises:
        Missing: ours or the peer can not be measured here; of the others each that can not is left out.
    """
    sides = {side.server.name: side for side in goal.sides}
    figures: dict[str, list[Figures]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as running:
        servers: dict[str, Server] = {}
        for name, side in sides.items():
            server = side.server(Path(directory))
            running.callback(server.stop)
            try:
                server.start()
            except Missing as missing:
                if side in (goal.ours, goal.peer):
                    raise
                print(f"{goal.name}  without {name}: {missing}", file=sys.stderr)
                continue
            servers[name] = server
        for _ in range(rounds):
            for name, server in servers.items():
                figures[name].append(measure(binary, server, sides[name], seconds))
    spreads = {name: Spread.of(each) for name, each in figures.items() if each}
    return Result(goal.name, goal.text, goal.figure, goal.limit, goal.ours.server.name, goal.peer.server.name, spreads)


def report(result: Result) -> None:
    """Print what was measured."""
    verdict = "reached" if result.ratio <= result.limit else "NOT REACHED"
    print(
        f"{result.name}  {result.text}: {result.ratio:.2f} x {result.peer} (goal {result.limit:g}) {verdict}",
        flush=True,
    )
    for name, seen in result.sides.items():
        print(
            f"      {name:16} {seen.cpu_us.median:8.2f} us CPU/op {seen.ops_per_s.median:10.0f} op/s"
            f"   p50 {seen.p50_us.median / 1000:.2f} ms   p99 {seen.p99_us.median / 1000:.2f} ms"
            f"   share of its core {seen.server_share.median:.2f}, of the load's {seen.load_share.median:.2f}",
            flush=True,
        )


def connected(binary: Path, side: Side) -> Figures:
    """Return what it takes a new server of *side* to have clients that say nothing."""
    with tempfile.TemporaryDirectory() as directory:
        server = side.server(Path(directory))
        server.start()
        try:
            return measure(binary, server, side, 1)
        finally:
            server.stop()


def idle(binary: Path, rounds: int) -> dict[str, float]:
    """P7 and P8b: memory of an idle connection with its session, and what it takes to connect, beside Node's ws."""
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(connected(binary, Side(Broker, "owlmeans", IDLE)))
        with suppress(Missing):
            theirs.append(connected(binary, Side(Ws, "limit", IDLE)))
    kib, cpu = (median(seen[name] for seen in ours) for name in ("kib_per_conn", "cpu_us"))
    verdict = "reached" if kib <= 3.5 else "NOT REACHED"
    print(f"P7  memory of an idle connection: {kib:.2f} KiB (goal 3.5) {verdict}")
    verdict = "reached" if cpu <= 150 else "NOT REACHED"
    print(f"P8b  {cpu:.0f} us CPU to connect one of {IDLE[3]} (goal 150) {verdict}")
    figures = {"KiB of an idle connection": kib, "µs to connect": cpu}
    if theirs:
        figures["µs to connect to ws"] = peer = median(seen["cpu_us"] for seen in theirs)
        verdict = "reached" if cpu <= 1.2 * peer else "NOT REACHED"
        print(f"P8b  that is {cpu / peer:.2f} x ws (goal 1.2) {verdict}")
    return figures


def start_up(rounds: int) -> dict[str, float]:
    """P8: from process start to the first connection, and memory then."""
    seconds, resident = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as directory:
            server = Broker(Path(directory))
            server.start()
            seconds.append(server.started_in)
            resident.append(server.resident_kib() / 1024)
            server.stop()
    fast, small = median(seconds), median(resident)
    verdict = "reached" if fast <= 0.4 and small <= 60 else "NOT REACHED"
    print(f"P8  start {fast:.2f} s (goal 0.4), resident {small:.0f} MiB (goal 60) {verdict}")
    return {"seconds to start": fast, "MiB at the start": small}


def main() -> bool:
    """Measure what is asked for; say whether that is everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names of goals, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results, which the documentation shows")
    parser.add_argument("--with", dest="variant", choices=VARIANTS, help="measure that beside the plain broker instead")
    options = parser.parse_args()
    if options.variant and options.save:
        parser.error("what is kept is of the plain broker")
    wanted = set(options.only.split(",")) - {""}
    binary = build_load()
    if not options.variant:
        install_peers()
    results = Results.load()
    for goal in goals_with(options.variant) if options.variant else GOALS:
        if wanted and goal.name not in wanted:
            continue
        try:
            result = compare(goal, binary, options.rounds, options.seconds)
        except Missing as missing:
            print(f"{goal.name}  {goal.text}: left out, {missing}")
            continue
        report(result)
        results.add(result)
    if options.variant:
        return False
    if not wanted or wanted & {"P7", "P8b"}:
        results.alone.update(idle(binary, options.rounds))
    if not wanted or "P8" in wanted:
        results.alone.update(start_up(options.rounds))
    if options.save:
        results.save()
    return not wanted


if __name__ == "__main__":
    main()
