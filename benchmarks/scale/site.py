"""One daemon that is measured at one size of what grows."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import msgspec

from benchmarks.goals import Side
from benchmarks.run import Figures, measure
from benchmarks.servers import LOAD_CORE, Broker, Missing, pin

CONNECTIONS = "32"  # that make calls, one at a time each
HOLDING = "10"  # that make what there is to be, and are there at each size
HOLDING_WINDOW = "32"  # calls of each of them at a time
BACKLOG = "64"  # connections that are made at a time
TIMEOUT = 180.0  # seconds, of one measurement
WARM = "0.5"  # seconds of load before it is measured


@attrs.define(eq=False)
class Site:
    """A daemon, and those who only are connected to it.

    Attributes:
        binary: the load generator.
        directory: of its own.
        size: how much there is of what grows.
        seconds: of each measurement.
        server: the daemon.
    """

    binary: Path
    directory: Path
    size: int
    seconds: float
    server: Broker
    _holding: list[subprocess.Popen[str]] = attrs.field(factory=list)

    def hold(self, calls: Iterable[str]) -> None:
        """Make each of *calls* once, and stay connected.

        Raises:
            Missing: one was refused, or it takes too long.
        """
        file = self._script("held", calls)
        command = [*self._load(), "-F", str(file)]
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: pin(LOAD_CORE))
        self._holding.append(holder)
        assert holder.stdout is not None
        if holder.stdout.readline() != "prepared\n":
            raise Missing(f"what is measured can not be made: {calls_of(file)}")

    def make(self, calls: Iterable[str]) -> None:
        """Make each of *calls* once; see ``hold``."""
        self.hold(calls)
        self._release()

    def microseconds(self, calls: Iterable[str]) -> float:
        """Return the CPU time that the daemon spends on one of *calls*, which are made again and again."""
        seen = self.under("-m", "calls", "-n", CONNECTIONS, "-f", str(self._script("calls", calls)))
        return float(seen["cpu_us"])

    def under(self, *load: str, longer: float = 0.0) -> Figures:
        """Return what is seen under a *load* of the load generator, which lasts so many seconds *longer*.

        Raises:
            Missing: something was refused.
        """
        side, seconds = Side(Broker, "owlmeans", (*load, "-b", BACKLOG, "-W", WARM)), self.seconds + longer
        figures = measure(self.binary, self.server, side, seconds, TIMEOUT)
        if figures["errors"] or figures.get("ops") == 0:
            raise Missing(f"{figures['errors']} errors, {figures.get('ops')} operations in {seconds} s")
        return figures

    def cpu(self) -> float:
        """Return the seconds of CPU time that the daemon has spent."""
        assert self.server.process is not None
        return time.clock_gettime(clock_of(self.server.process.pid))

    def stop(self) -> None:
        """End the daemon, and all who are connected."""
        self._release()
        self.server.stop()

    def _release(self) -> None:
        for holder in self._holding:
            holder.kill()
            holder.wait()
        self._holding.clear()

    def _load(self) -> list[str]:
        pids = ",".join(map(str, self.server.pids()))
        load = ["-m", "calls", "-n", HOLDING, "-w", HOLDING_WINDOW, "-b", BACKLOG]
        return [str(self.binary), *load, "-p", str(self.server.port), "-P", pids]

    def _script(self, name: str, calls: Iterable[str]) -> Path:
        file = self.directory / name
        file.write_text("".join(f"{call}\n" for call in calls), "utf-8")
        return file


def calls_of(file: Path) -> str:
    """Return the first of the calls in *file*."""
    with file.open(encoding="utf-8") as lines:
        return next(lines, "")


def clock_of(pid: int) -> int:
    """Return the clock of the CPU time of a process, as ``clock_getcpuclockid`` does."""
    return (~pid << 3) | 2


def call(method: str, *arguments: Any) -> str:
    """Return a call of the native dialect as the load generator reads it."""
    return f'"method":"{method}","payload":{msgspec.json.encode(arguments).decode()}'
