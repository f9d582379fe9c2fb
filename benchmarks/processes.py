"""What one daemon does with one process and with several, over one Redis: ``python -m benchmarks.processes``.

All that runs shares all cores of the machine, the load generator and Redis included: where those are few, what counts
is the CPU time of an operation.  Of each row it prints the operations in a second, and the CPU time of an operation:
of the workers and their supervisor, and of Redis.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.goals import APPEND, FAN_OUT, RELAY_DEEP
from benchmarks.servers import CORES, OneNode, Redis, build_load

LOADS = {
    "request relay, 32 x 16 in flight": ("owlmeans", RELAY_DEEP),
    "fan-out to 1,000, per delivery": ("owlmeans", FAN_OUT),
    "durable posts over HTTP, 32 in flight": ("ganomede", APPEND),
}
TICKS = os.sysconf("SC_CLK_TCK")


class AllCoresRedis(Redis):
    """One that may use all cores."""

    def pin(self) -> None:
        os.sched_setaffinity(0, set(CORES))


class Processes(OneNode):
    """A daemon of *count* processes, which may use all cores."""

    redis_class = AllCoresRedis

    def __init__(self, directory: Path, count: int) -> None:
        self.name = f"{count}"
        super().__init__(directory)
        self.more = {"TXBROKER_PROCESSES": f"{count}"}

    def pin(self) -> None:
        os.sched_setaffinity(0, set(CORES))


def cpu_seconds(pids: list[int]) -> float:
    """Return the CPU time that processes have used."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / TICKS


def measure(binary: Path, server: Processes, load: tuple[str, tuple[str, ...]], seconds: float) -> tuple[float, ...]:
    """Return the operations in a second, and the CPU time of one: of the daemon and of Redis, in microseconds."""
    kind, words = load
    command = [str(binary), "-k", kind, "-p", f"{server.port}", "-q", f"{server.port}", "-u", server.path]
    pids = ",".join(map(str, server.pids()))
    before = cpu_seconds(server.redis.pids())
    done = subprocess.run(
        [*command, "-d", f"{seconds}", "-P", pids, *words], capture_output=True, text=True, timeout=seconds + 60
    )
    figures = json.loads(done.stdout)
    redis = cpu_seconds(server.redis.pids()) - before
    return figures["ops_per_s"], figures["cpu_us"], redis / max(figures["ops_per_s"] * seconds, 1) * 1e6


def main() -> None:
    """Measure in turn, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    counts, binary = [int(word) for word in options.processes.split(",")], build_load()
    for text, load in LOADS.items():
        with tempfile.TemporaryDirectory() as directory:
            servers = [Processes(Path(directory), count) for count in counts]
            try:
                for server in servers:
                    server.start()
                rows = [
                    [measure(binary, each, load, options.seconds) for each in servers] for _ in range(options.rounds)
                ]
            finally:
                for server in servers:
                    server.stop()
        for index, count in enumerate(counts):
            rate, broker, redis = (median(row[index][figure] for row in rows) for figure in range(3))
            print(f"{text:40} {count} processes {rate:9.0f} op/s {broker:7.1f} us {redis:6.1f} us of Redis", flush=True)


if __name__ == "__main__":
    main()
