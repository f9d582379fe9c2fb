"""Daemons forked from a process that has imported all they need.

To start Python and import the broker takes half a second of a processor, which hundreds of tests would spend.
A fork takes a few milliseconds, and runs the same ``twistd`` with the arguments, environment, directory and files
that are asked for.

The server, ``python -m tests.support.forks``, takes requests from its standard input, a unix socket: JSON, with
four descriptors: what is to be the child's standard input, output and error output, and a pipe into which the
server writes the child's wait status when that has ended.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import attrs
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.process import ProcessReader
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

ROOT = Path(__file__).parent.parent.parent
MODULES = (
    "twisted.scripts.twistd",
    "twisted.internet.epollreactor",
    "broker.app.tap",
    *(f"protocols.{name}" for name in ("owlmeans", "ganomede", "thinws", "hpkv", "microstream", "http")),
)
MAX_REQUEST = 1 << 17  # bytes
NUMBER = struct.Struct("i")  # a process ID, or a wait status


def can_be_forked(environ: Mapping[str, str]) -> bool:
    """Whether a program with this environment would be as the server is: the rest is read when Python starts."""
    decided = {name for name in environ if name.startswith(("PYTHON", "LD_", "MALLOC_", "COVERAGE_"))}
    return decided <= {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE"} and environ.get("PYTHONPATH") == str(ROOT)


@attrs.define
class Server:
    """The process from which others are forked; it ends when this one does."""

    process: subprocess.Popen[bytes]
    requests: socket.socket

    @classmethod
    def start(cls) -> Server:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen([sys.executable, "-m", "tests.support.forks"], stdin=theirs.fileno(), cwd=ROOT)
        server = cls(process, ours)
        atexit.register(server.stop)
        return server

    def stop(self) -> None:
        self.requests.close()
        self.process.wait()

    def fork(self, request: Mapping[str, object], descriptors: Sequence[int]) -> int:
        """Return the process ID of a new child."""
        socket.send_fds(self.requests, [json.dumps(request).encode()], descriptors)
        pid: int = NUMBER.unpack(self.requests.recv(NUMBER.size))[0]
        return pid


_servers: dict[int, Server] = {}  # by the process that has started it: there is one, or none


def server() -> Server:
    """Return the server of this process."""
    if os.getpid() not in _servers:
        _servers.clear()
        _servers[os.getpid()] = Server.start()
    return _servers[os.getpid()]


class ForkedProcess:
    """A child of the server, with what *protocol* knows of a process that the reactor has started."""

    def __init__(
        self, protocol: ProcessProtocol, reactor: object, words: Sequence[str], env: Mapping[str, str], cwd: str
    ) -> None:
        self._protocol = protocol
        self._status = b""
        pipes = {name: os.pipe() for name in (1, 2, 3)}
        with open(os.devnull, "rb") as nothing:
            descriptors = [nothing.fileno(), *(writing for _, writing in pipes.values())]
            self.pid: int | None = server().fork({"words": list(words), "env": dict(env), "cwd": cwd}, descriptors)
        for _, writing in pipes.values():
            os.close(writing)
        self._readers = {name: ProcessReader(reactor, self, name, reading) for name, (reading, _) in pipes.items()}
        protocol.makeConnection(self)

    def signalProcess(self, number: int) -> None:
        if self.pid is None:
            raise ProcessExitedAlready
        try:
            os.kill(self.pid, number)
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise ProcessExitedAlready from None
            raise

    def childDataReceived(self, name: int, data: bytes) -> None:
        if name == 3:
            self._status += data
            return
        self._protocol.childDataReceived(name, data)

    def childConnectionLost(self, name: int, reason: Failure) -> None:
        del self._readers[name]
        if self._readers:
            return
        self.pid = None
        status: int = NUMBER.unpack(self._status)[0] if self._status else signal.SIGKILL
        code = os.waitstatus_to_exitcode(status)
        ended = ProcessDone(status) if code == 0 else ProcessTerminated(max(code, 0), -min(code, 0) or None, status)
        self._protocol.processEnded(Failure(ended))


# The server.


class Parent:
    """Forks children until nobody can ask for one any more."""

    def __init__(self) -> None:
        self._requests = socket.socket(fileno=os.dup(0))
        self._statuses: dict[int, int] = {}  # by process ID, the pipe that is to be told
        self._waking, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the tests
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)

    def run(self) -> Callable[[], None] | None:
        """Return None at the end, and in each child what it is to be."""
        while True:
            ready, _, _ = select.select([self._requests.fileno(), self._waking], [], [])
            if self._waking in ready:
                self._reap()
            if self._requests.fileno() in ready:
                text, descriptors, _, _ = socket.recv_fds(self._requests, MAX_REQUEST, 4)
                if not text:
                    return None
                if child := self._fork(json.loads(text), descriptors):
                    return child

    def _fork(self, request: dict, descriptors: list[int]) -> Callable[[], None] | None:
        *files, status = descriptors
        if not (pid := os.fork()):
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            return partial(run_child, request, files)
        self._statuses[pid] = status
        for descriptor in files:
            os.close(descriptor)
        self._requests.send(NUMBER.pack(pid))
        return None

    def _reap(self) -> None:
        os.read(self._waking, 1 << 16)
        while self._statuses:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with open(self._statuses.pop(pid), "wb") as pipe, suppress(BrokenPipeError):
                pipe.write(NUMBER.pack(status))


def run_child(request: dict, files: Sequence[int]) -> None:
    """Be the program that is asked for."""
    for wanted, descriptor in enumerate(files):
        os.dup2(descriptor, wanted)
    os.closerange(len(files), 1 << 16)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["words"]
    from twisted.scripts.twistd import run

    run()


if __name__ == "__main__":
    for module in MODULES:
        import_module(module)
    if (child := Parent().run()) is not None:
        child()
