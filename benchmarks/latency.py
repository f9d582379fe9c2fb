"""How long a call takes while the daemon is at work: ``python -m benchmarks.latency [--seconds 5] [--subscribers N]``.

Calls begin at a steady rate, whether others are answered or not, and each is timed from when it was due: so a pause
of the daemon counts for all that it keeps waiting.  First at half of what the core can do, then beside a topic with
very many subscribers, to all of whom an event goes twice a second.  The longest iteration of the loop is CPU time,
all others wall time, which a busy machine makes longer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.goals import Side
from benchmarks.run import Figures, measure
from benchmarks.scale.curves import MANY_CONNECTIONS
from benchmarks.servers import LOAD_CORE, Broker, build_load, pin

CALLS = 500  # a second, beside the fan-outs
FAN_OUTS = 2.0  # a second
CALLERS = ("-m", "relay", "-n", "32")
SETTLING = 3.0  # seconds, in which the memory that was used to connect is given back
CONNECTING = 60.0  # seconds, for very many subscribers on a busy machine


class TimedBroker(Broker):
    """A daemon that notes its longest loop iteration."""

    name = "timed"
    more = MANY_CONNECTIONS

    def command(self) -> list[str]:
        twistd = super().command()[1:]
        return [sys.executable, "-m", "benchmarks.timed_loop", str(self.longest_file), *twistd]

    def environ(self) -> dict[str, str]:
        return {**super().environ(), "PYTHONPATH": os.getcwd()}

    @property
    def longest_file(self) -> Path:
        return self.directory / "longest"

    def longest_ms(self) -> float:
        """Return the CPU time of the longest iteration since the file was removed, in milliseconds."""
        return float(self.longest_file.read_text("utf-8") or 0) * 1e3


def report(what: str, seen: Figures, server: TimedBroker) -> None:
    """Print what a call took, and the longest loop iteration."""
    print(
        f"{what:44} p50 {seen['p50_us'] / 1e3:7.2f} ms   p99.9 {seen['p999_us'] / 1e3:7.2f} ms"
        f"   longest {seen['longest_us'] / 1e3:7.2f} ms   share of its core {seen['server_share']:.2f}"
        f"   longest iteration {server.longest_ms():.1f} ms of CPU",
        flush=True,
    )


def calls(binary: Path, server: TimedBroker, rate: float, seconds: float) -> Figures:
    """Return what calls take that begin so often a second."""
    server.longest_file.unlink(missing_ok=True)
    return measure(binary, server, Side(Broker, "owlmeans", (*CALLERS, "-r", f"{rate:.0f}")), seconds)


def beside_fan_outs(binary: Path, server: TimedBroker, subscribers: int, seconds: float) -> Figures:
    """Return the same while events go to so many subscribers."""
    load = f"-m fanout -n {subscribers} -b 64 -r {FAN_OUTS} -W {CONNECTING} -d {CONNECTING + seconds}".split()
    command = [str(binary), *load, "-p", str(server.port), "-P", str(server.pids()[0])]
    others = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=_lower)
    try:
        wait_for_subscribers(server, subscribers)
        return calls(binary, server, CALLS, seconds)
    finally:
        others.kill()
        others.wait()


def _lower() -> None:
    pin(LOAD_CORE)
    os.nice(10)  # what is measured are the calls


def wait_for_subscribers(server: TimedBroker, count: int) -> None:
    """Return when so many connections are there."""
    for _ in range(int(CONNECTING * 10)):
        sockets = len(os.listdir(f"/proc/{server.pids()[0]}/fd"))
        if sockets > count:
            time.sleep(SETTLING)
            return
        time.sleep(0.1)


def main() -> None:
    """Measure, and print a line for each load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--subscribers", type=int, default=10_000)
    options = parser.parse_args()
    binary = build_load()
    with tempfile.TemporaryDirectory() as directory:
        server = TimedBroker(Path(directory))
        server.start()
        try:
            most = measure(binary, server, Side(Broker, "owlmeans", (*CALLERS, "-w", "1")), options.seconds)
            half = 0.5e6 / most["cpu_us"]
            report(f"{half:.0f} calls/s, half of the core", calls(binary, server, half, options.seconds), server)
            report(f"{CALLS} calls/s", calls(binary, server, CALLS, options.seconds), server)
            seen = beside_fan_outs(binary, server, options.subscribers, options.seconds)
            report(f"the same, and {FAN_OUTS:.0f} events/s to {options.subscribers:,}", seen, server)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
