"""A real broker in a process of its own, as an operator would run it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from twisted.internet import reactor

from tests.support.eventually import STEP, TIMEOUT, pause
from tests.support.forks import can_be_forked
from tests.support.http_client import get
from tests.support.processes import Program

ROOT = Path(__file__).parent.parent.parent
TWISTD = Path(sys.executable).with_name("twistd")
RUNS = (str(TWISTD), "-n", "--pidfile=")
WITH_METRICS = {"TXBROKER_ADMIN_LISTEN": "tcp:0:interface=127.0.0.1"}
TROUBLE = ("Traceback (most recent call last)", "Unhandled", '"level":"error"', '"level":"critical"', "CRITICAL")


def clean_environ(directory: Path) -> dict[str, str]:
    """Return an environment in which nothing of the developer's own is set."""
    wanted = ("PATH", "LANG", "LC_ALL", "PYTHONDONTWRITEBYTECODE", "TXBROKER_SPEEDUPS")
    kept = {name: os.environ[name] for name in wanted if name in os.environ}
    return {**kept, "HOME": str(directory), "PYTHONPATH": str(ROOT)}


class Daemon:
    """``twistd -n broker`` on a port of the system's choice, with its state in *directory*.

    After the first start the port stays, so that clients find it again after a restart.
    ``options`` are those of twistd, besides; ``runs`` is the program, for one that does more than ``twistd``.
    """

    options: Sequence[str] = ()
    runs: Sequence[str] = RUNS

    def __init__(self, directory: Path, **environ: str) -> None:
        self.directory = directory
        self.environ: dict[str, str] = {
            **clean_environ(directory),
            "STATE_DIRECTORY": str(directory),
            "TXBROKER_LISTEN": "tcp:0:interface=127.0.0.1",
            "TXBROKER_ADMIN_LISTEN": "none",
            "TXBROKER_LOG_FORMAT": "json",
            **environ,
        }
        self.url = ""  # http://127.0.0.1:port, once started
        self.provoked: list[str] = []  # what may stand in an error line because the test asked for it
        self._logs: list[str] = []
        self._program: Program | None = None

    @property
    def program(self) -> Program:
        assert self._program is not None, "the daemon was not started"
        return self._program

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    @property
    def pid(self) -> int:
        return self.program.pid

    def ws(self, path: str) -> str:
        """Return the WebSocket URL of *path*."""
        return "ws" + self.url.removeprefix("http") + path

    def spawn(self) -> Program:
        """Start the process without waiting for it to be ready."""
        start = Program.fork if self.runs == RUNS and can_be_forked(self.environ) else Program.start
        self._program = start([*self.runs, *self.options, "broker"], env=self.environ, cwd=self.directory)
        return self._program

    async def start(self, timeout: float = TIMEOUT) -> Daemon:
        """Start it and wait until it takes connections."""
        ready = json.loads(await self.spawn().line(lambda line: '"url":' in line, timeout))
        self.url = ready["url"]
        self.environ["TXBROKER_LISTEN"] = f"tcp:{self.port}:interface=127.0.0.1"
        return self

    async def stop(self, timeout: float = TIMEOUT) -> int:
        """End it in good order; return its exit status."""
        self.program.signal(signal.SIGTERM)
        return await self._ended(timeout)

    async def kill(self) -> None:
        """``kill -9``: it gets no chance to put anything in order."""
        self.program.signal(signal.SIGKILL)
        await self._ended(TIMEOUT)

    async def restart(self, **environ: str) -> Daemon:
        """Start it again on the same state, after it was stopped or killed."""
        if self.running:
            await self.stop()
        self.environ.update(environ)
        return await self.start()

    @property
    def running(self) -> bool:
        return self._program is not None and self._program.status is None

    async def _ended(self, timeout: float) -> int:
        status = await self.program.exit(timeout)
        self._logs += self.program.lines
        self.program.lines = []
        return status

    @property
    def output(self) -> list[str]:
        """Everything that all its runs have said."""
        return self._logs + (self._program.lines if self._program else [])

    def events(self) -> list[Mapping[str, object]]:
        """Return the log lines of all its runs as objects."""
        return [json.loads(line) for line in self.output if line.startswith("{")]

    @property
    def admin_url(self) -> str:
        """Where the admin port of its last run is; needs :data:`WITH_METRICS`."""
        told = [str(event["metrics"]) for event in self.events() if "metrics" in event]
        return told[-1].removesuffix("/metrics")

    async def until_metric(self, name: str, value: float) -> None:
        """Return when the sample *name*, labels included, has *value*; needs :data:`WITH_METRICS`."""
        url, sample, end = self.admin_url + "/metrics", f"{name} {value:.1f}", reactor.seconds() + TIMEOUT
        while sample not in (await get(url)).text.split("\n"):
            assert reactor.seconds() < end, f"not {sample} within {TIMEOUT} s"

    async def until_ready(self) -> None:
        """Return when it can do all its work: it takes clients before, when it does not reach its Redis soon."""
        end = reactor.seconds() + TIMEOUT
        while (answer := await get(f"{self.url}/ready")).status != 200:
            assert reactor.seconds() < end, answer.text
            await pause(STEP)

    def troubles(self) -> list[str]:
        """Return the lines that tell of an error nobody provoked."""
        return [
            line
            for line in self.output
            if any(word in line for word in TROUBLE) and not any(word in line for word in self.provoked)
        ]
