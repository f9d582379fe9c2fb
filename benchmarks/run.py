"""Our goals, each measured beside its peer in one run: A B A B, pinned, median of the rounds.

What counts is the server's CPU time per operation; machines are noisy, ratios
of one run are not.  Usage: ``python -m benchmarks [--only P1,P4] [--rounds 3] [--seconds 3]``
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import attrs

from benchmarks.servers import (
    LOAD_CORE,
    Broker,
    Ganomede,
    JetStream,
    Missing,
    Nats,
    Nchan,
    OneNode,
    Server,
    SocketIo,
    TwoNodes,
    build_load,
    install_peers,
    pin,
)

Figures = dict[str, Any]


@attrs.frozen
class Side:
    """One server under one load: what is spoken, how much of it, and where."""

    server: type[Server]
    kind: str
    load: tuple[str, ...]
    path: str = ""


@attrs.frozen
class Goal:
    """Ours beside a peer; ``limit`` is the most that ours may be, times the peer's."""

    name: str
    text: str
    ours: Side
    peer: Side
    limit: float
    figure: str = "cpu_us"


RELAY = ("-m", "relay", "-n", "32", "-w", "1")
RELAY_DEEP = ("-m", "relay", "-n", "32", "-w", "16")
FAN_OUT = ("-m", "fanout", "-n", "1000", "-w", "1")
APPEND = ("-m", "append", "-n", "32", "-w", "1")
JOBS = ("-m", "jobs", "-n", "32", "-w", "4")
POLL = ("-m", "poll", "-n", "200", "-i", "100")
IDLE = ("-m", "idle", "-n", "5000", "-W", "2")

NEWS, NCHAN_NEWS = "/v1/topics/news", "/sse/news"
SOCKET_IO = "/socket.io/?EIO=4&transport=websocket"

GOALS = [
    Goal("P1", "request relay, 32 x 1 in flight", Side(Broker, "owlmeans", RELAY), Side(Nats, "nats", RELAY), 1.0),
    Goal(
        "P2",
        "request relay, 32 x 16 in flight",
        Side(Broker, "owlmeans", RELAY_DEEP),
        Side(Nats, "nats", RELAY_DEEP),
        2.0,
    ),
    Goal(
        "P3",
        "MicroStream requests, 32 x 1 in flight, beside a bare Socket.IO hub",
        Side(Broker, "micro", RELAY, SOCKET_IO),
        Side(SocketIo, "micro", RELAY, SOCKET_IO),
        0.7,
    ),
    Goal(
        "P3d",
        "MicroStream requests, 32 x 16 in flight, beside a bare Socket.IO hub",
        Side(Broker, "micro", RELAY_DEEP, SOCKET_IO),
        Side(SocketIo, "micro", RELAY_DEEP, SOCKET_IO),
        0.7,
    ),
    Goal(
        "P4", "fan-out to 1,000, per delivery", Side(Broker, "owlmeans", FAN_OUT), Side(SocketIo, "sio", FAN_OUT), 0.7
    ),
    Goal(
        "P5",
        "durable append over HTTP (fsync on ours, none on theirs)",
        Side(Broker, "ganomede", APPEND),
        Side(Ganomede, "ganomede", APPEND),
        0.25,
    ),
    Goal("P6", "200 long polls, per delivery", Side(Broker, "ganomede", POLL), Side(Nchan, "nchan", POLL), 2.0),
    Goal(
        "P6p99",
        "200 long polls, p99 from post to delivery",
        Side(Broker, "ganomede", POLL),
        Side(Nchan, "nchan", POLL),
        2.0,
        "p99_us",
    ),
    Goal(
        "P11",
        "request relay between two nodes on one Redis, 32 x 16 in flight, CPU of both",
        Side(TwoNodes, "owlmeans", RELAY_DEEP),
        Side(OneNode, "owlmeans", RELAY_DEEP),
        1.5,
    ),
    Goal(
        "P11fan",
        "fan-out to 500 on each of two nodes, CPU of both per delivery",
        Side(TwoNodes, "owlmeans", FAN_OUT),
        Side(OneNode, "owlmeans", FAN_OUT),
        1.5,
    ),
    Goal(
        "P11log",
        "durable append over HTTP to two nodes, 16 connections to each, CPU of both",
        Side(TwoNodes, "ganomede", APPEND),
        Side(OneNode, "ganomede", APPEND),
        1.5,
    ),
    Goal(
        "P12",
        "durable publish over the native dialect, 32 x 1 in flight (fsync on ours, none on theirs)",
        Side(Broker, "owlmeans", APPEND),
        Side(JetStream, "nats", APPEND),
        3.0,
    ),
    Goal(
        "P13",
        "job cycle: enqueue, deliver, done, 32 x 4 in flight (fsync on ours, none on theirs)",
        Side(Broker, "owlmeans", JOBS),
        Side(JetStream, "nats", JOBS),
        10.0,
    ),
    Goal(
        "P14",
        "server-sent events to 1,000, per delivery",
        Side(Broker, "sse", FAN_OUT, NEWS),
        Side(Nchan, "nchansse", FAN_OUT, NCHAN_NEWS),
        2.0,
    ),
]


def measure(binary: Path, server: Server, side: Side, seconds: float) -> Figures:
    """Put one load on a running server and return what was seen."""
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
        [*command, *side.load], capture_output=True, text=True, timeout=seconds + 60, preexec_fn=lambda: pin(LOAD_CORE)
    )
    if not done.stdout.strip():
        raise Missing(f"no figures: {done.stderr.strip()[-300:]}")
    figures: Figures = json.loads(done.stdout)
    if figures["errors"]:
        print(f"  {server.name}: {figures['errors']} errors: {done.stderr.strip()[:300]}", file=sys.stderr)
    if figures.get("load_share", 0) > 0.95 > figures.get("server_share", 1):
        print(f"  {server.name}: the load generator was the bottleneck", file=sys.stderr)
    return figures


def compare(goal: Goal, binary: Path, rounds: int, seconds: float) -> Figures:
    """Measure ours and the peer in turn; return the medians and their ratio."""
    with tempfile.TemporaryDirectory() as directory:
        ours, peer = goal.ours.server(Path(directory)), goal.peer.server(Path(directory))
        try:
            ours.start()
            peer.start()
            seen: dict[str, list[Figures]] = {"ours": [], "peer": []}
            for _ in range(rounds):
                seen["ours"].append(measure(binary, ours, goal.ours, seconds))
                seen["peer"].append(measure(binary, peer, goal.peer, seconds))
        finally:
            ours.stop()
            peer.stop()
    result: Figures = {"goal": goal.name, "limit": goal.limit, "peer_name": goal.peer.server.name}
    for side, figures in seen.items():
        for name in ("cpu_us", "ops_per_s", "p50_us", "p99_us", "server_share", "load_share"):
            result[f"{side}_{name}"] = median(figure[name] for figure in figures)
    result["ratio"] = result[f"ours_{goal.figure}"] / result[f"peer_{goal.figure}"]
    return result


def report(goal: Goal, result: Figures) -> None:
    verdict = "reached" if result["ratio"] <= goal.limit else "NOT REACHED"
    print(f"{goal.name}  {goal.text}: {result['ratio']:.2f} x {result['peer_name']} (goal {goal.limit:g}) {verdict}")
    for side in ("ours", "peer"):
        seen = {name.removeprefix(f"{side}_"): value for name, value in result.items() if name.startswith(side)}
        print(
            f"      {side}: {seen['cpu_us']:8.2f} us CPU/op {seen['ops_per_s']:10.0f} op/s"
            f"   p50 {seen['p50_us'] / 1000:.2f} ms   p99 {seen['p99_us'] / 1000:.2f} ms"
            f"   share of its core {seen['server_share']:.2f}, of the load's {seen['load_share']:.2f}"
        )


def idle(binary: Path) -> None:
    """P7: memory of an idle connection with its session."""
    with tempfile.TemporaryDirectory() as directory:
        server = Broker(Path(directory))
        server.start()
        try:
            figures = measure(binary, server, Side(Broker, "owlmeans", IDLE), 1)
        finally:
            server.stop()
    verdict = "reached" if figures["kib_per_conn"] <= 6.5 else "NOT REACHED"
    print(f"P7  memory of an idle connection: {figures['kib_per_conn']:.2f} KiB (goal 6.5) {verdict}")
    print(f"      {figures['n']} connections, {figures['cpu_us']:.0f} us CPU to connect one")


def start_up(rounds: int) -> None:
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
    verdict = "reached" if fast <= 0.6 and small <= 60 else "NOT REACHED"
    print(f"P8  start {fast:.2f} s (goal 0.6), resident {small:.0f} MiB (goal 60) {verdict}")


def main() -> bool:
    """Measure what is asked for; say whether that is everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names of goals, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    wanted = set(options.only.split(",")) - {""}
    binary = build_load()
    install_peers()
    alone: dict[str, Callable[[], None]] = {"P7": lambda: idle(binary), "P8": lambda: start_up(options.rounds)}
    for goal in GOALS:
        if wanted and goal.name not in wanted:
            continue
        try:
            report(goal, compare(goal, binary, options.rounds, options.seconds))
        except Missing as missing:
            print(f"{goal.name}  {goal.text}: left out, {missing}")
    for name, work in alone.items():
        if not wanted or name in wanted:
            work()
    return not wanted


if __name__ == "__main__":
    main()
