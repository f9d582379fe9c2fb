"""The servers that are measured: ours, alone and on Redis; see ``peer_servers`` for the others."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

HERE = Path(__file__).parent
BUILD = HERE / ".build"
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = 0, CORES[-1]
# Nodes have machines of their own: two that share a core cost a sixth more each, since its caches are lost at each
# switch between them.
SECOND_CORE, REDIS_CORE = CORES[1:3] if len(CORES) >= 4 else (SERVER_CORE, SERVER_CORE)
STARTING = 15.0  # seconds a server may take until it accepts connections


class Missing(Exception):
    """A peer is not to be had on this machine."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pin(core: int) -> None:
    os.sched_setaffinity(0, {core})


def program(*names: str) -> str:
    for name in names:
        beside = Path(sys.executable).parent  # where the tests have their redis-server
        found = shutil.which(name) or shutil.which(name, path=f"{beside}:/usr/sbin:/usr/local/sbin")
        if found:
            return found
    raise Missing(f"{names[0]} is not installed")


class Server:
    """One process, and its children, on a port of loopback, pinned to one core."""

    name = ""
    core = SERVER_CORE
    path = "/"

    def __init__(self, directory: Path) -> None:
        self.directory = directory / self.name
        self.directory.mkdir(parents=True)
        self.port = free_port()
        self.started_in = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def environ(self) -> dict[str, str]:
        return {}

    def start(self) -> None:
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.directory), **self.environ()}
        with open(self.directory / "log", "wb") as log:
            began = time.perf_counter()
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                env=environ,
                stdout=log,
                stderr=log,
                preexec_fn=self.pin,
                start_new_session=True,
            )
        while not self._accepts():
            if self.process.poll() is not None or time.perf_counter() - began > STARTING:
                self.stop()
                raise Missing(f"{self.name} does not start: {(self.directory / 'log').read_text()[-400:]}")
            time.sleep(0.002)
        self.started_in = time.perf_counter() - began

    def pin(self) -> None:
        """Say in the new process which cores it may use."""
        pin(self.core)

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def service_port(self) -> int:
        """Where the one connects that serves the others."""
        return self.port

    def pids(self) -> list[int]:
        """The processes that do the work."""
        assert self.process is not None
        return [self.process.pid, *children(self.process.pid)]

    def resident_kib(self) -> int:
        return sum(int(line.split()[1]) for pid in self.pids() for line in status(pid) if line.startswith("VmRSS"))

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(5)


def status(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return []


def children(pid: int) -> list[int]:
    try:
        found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return found + [grandchild for child in found for grandchild in children(child)]


class Broker(Server):
    """twistd broker on the embedded store, with fsync."""

    name = "txbroker"
    store = "sqlite:"
    more: dict[str, str] = {}

    def command(self) -> list[str]:
        return [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "broker"]

    def environ(self) -> dict[str, str]:
        return {
            "TXBROKER_LISTEN": f"tcp:{self.port}:interface=127.0.0.1",
            "TXBROKER_STORE": self.store,
            "TXBROKER_ADMIN_LISTEN": "tcp:0:interface=127.0.0.1",
            "STATE_DIRECTORY": str(self.directory),
            **self.more,
        }

    def until_ready(self) -> None:
        """Return when it takes work: with Redis that is some time after it takes connections."""
        end = time.perf_counter() + STARTING
        while time.perf_counter() < end:
            with suppress(OSError), urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=1):
                return
            time.sleep(0.02)
        raise Missing(f"{self.name} is not ready")


class Redis(Server):
    """redis-server without persistence, as ganomede-events' figures were taken."""

    name = "redis"

    def command(self) -> list[str]:
        return [
            program("redis-server"),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]


class OneNode(Broker):
    """twistd broker on a Redis of its own, whose CPU time does not count."""

    name = "one node"
    redis_class = Redis

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.redis = self.redis_class(self.directory)
        self.redis.core = REDIS_CORE

    def environ(self) -> dict[str, str]:
        return {**super().environ(), "TXBROKER_STORE": f"redis://127.0.0.1:{self.redis.port}"}

    def start(self) -> None:
        self.redis.start()
        super().start()
        self.until_ready()

    def stop(self) -> None:
        super().stop()
        self.redis.stop()


class TwoNodes(OneNode):
    """Two of them on one Redis; services connect to the second, which is a process of its own."""

    name = "two nodes"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.other = SecondNode(self.directory, self.redis)

    @property
    def service_port(self) -> int:
        return self.other.port

    def start(self) -> None:
        super().start()
        self.other.start()
        self.other.until_ready()

    def pids(self) -> list[int]:
        return [*super().pids(), *self.other.pids()]

    def stop(self) -> None:
        self.other.stop()
        super().stop()


class SecondNode(Broker):
    """A broker on the Redis of another."""

    name = "second node"
    core = SECOND_CORE

    def __init__(self, directory: Path, redis: Redis) -> None:
        super().__init__(directory)
        self.redis = redis

    def environ(self) -> dict[str, str]:
        return {**super().environ(), "TXBROKER_STORE": f"redis://127.0.0.1:{self.redis.port}"}


def compiled(source: Path) -> Path:
    """Compile a program of one file in C when its source is newer, and return it.

    Raises:
        Missing: there is no compiler.
    """
    binary = BUILD / source.stem
    BUILD.mkdir(exist_ok=True)
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        subprocess.run([program("cc", "gcc"), "-O2", "-o", str(binary), str(source)], check=True)
    return binary


def build_load() -> Path:
    """Return the load generator, compiled."""
    return compiled(HERE / "loadgen.c")
