"""Programs that the tests start, hear line by line, and end."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tests.support.eventually import TIMEOUT
from tests.support.forks import ForkedProcess


class Ended(Exception):
    """The program ended before it said what was waited for."""


class Program(ProcessProtocol):
    """A child process whose output is lines of text.

    ``lines`` holds everything it has said so far, on either output.  ``status`` is None while
    it runs, then its exit status, or the negative number of the signal that ended it.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.status: int | None = None
        self._partial = {1: b"", 2: b""}
        self._unread: deque[str] = deque()
        self._waiters: list[tuple[Callable[[str], bool], Deferred[str]]] = []
        self._exits: list[Deferred[int]] = []

    @classmethod
    def start(cls, command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path) -> Program:
        program = cls()
        words = [str(word) for word in command]
        reactor.spawnProcess(program, words[0], words, env=dict(env), path=str(cwd))
        return program

    @classmethod
    def fork(cls, command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path) -> Program:
        """Start ``twistd`` from a process that has imported the broker already."""
        program = cls()
        ForkedProcess(program, reactor, [str(word) for word in command], env, str(cwd))
        return program

    @property
    def pid(self) -> int:
        assert self.transport.pid is not None, "it has ended"
        return self.transport.pid

    def line(self, wanted: Callable[[str], bool] = bool, timeout: float = TIMEOUT) -> Deferred[str]:
        """Return the next line for which *wanted* is true, past or to come; lines before it are passed by."""
        while self._unread:
            text = self._unread.popleft()
            if wanted(text):
                done: Deferred[str] = Deferred()
                done.callback(text)
                return done
        if self.status is not None:
            raise Ended(self.report())
        waiting: Deferred[str] = Deferred(lambda d: self._waiters.remove((wanted, d)))
        self._waiters.append((wanted, waiting))
        return waiting.addTimeout(timeout, reactor)

    def say(self, text: str) -> None:
        """Write one line to its standard input."""
        self.transport.write(text.encode() + b"\n")

    def signal(self, number: int) -> None:
        self.transport.signalProcess(int(number))  # not all have a name that Twisted knows

    def freeze(self) -> None:
        """Let it hang, with its connections open, until ``thaw``; return when it does."""
        self.signal(signal.SIGSTOP)
        state = Path(f"/proc/{self.pid}/stat")
        while state.read_text().rpartition(") ")[2][0] != "T":
            time.sleep(0.001)

    def thaw(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def exit(self, timeout: float = TIMEOUT) -> Deferred[int]:
        """Return its exit status once it has ended and all it said is in ``lines``."""
        ended: Deferred[int] = Deferred(lambda d: self._exits.remove(d))
        if self.status is not None:
            ended.callback(self.status)
            return ended
        self._exits.append(ended)
        return ended.addTimeout(timeout, reactor)

    async def end(self) -> None:
        """Kill it if it still runs, and wait until it is gone."""
        if self.status is None:
            self.signal(signal.SIGKILL)
            await self.exit()

    def report(self) -> str:
        return f"status {self.status}, said:\n" + "\n".join(self.lines)

    # What Twisted calls

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *whole, self._partial[childFD] = (self._partial[childFD] + data).split(b"\n")
        for line in whole:
            self._heard(line.decode("utf-8", "replace"))

    def processEnded(self, reason: Failure) -> None:
        for rest in self._partial.values():
            if rest:
                self._heard(rest.decode("utf-8", "replace"))
        self.status = -reason.value.signal if reason.value.signal else reason.value.exitCode
        for _, waiting in self._take(self._waiters):
            waiting.errback(Ended(self.report()))
        for ended in self._take(self._exits):
            ended.callback(self.status)

    def _heard(self, text: str) -> None:
        self.lines.append(text)
        self._unread.append(text)
        for wanted, waiting in list(self._waiters):
            if wanted(text):
                self._unread.clear()
                self._waiters.remove((wanted, waiting))
                waiting.callback(text)

    @staticmethod
    def _take(waiting: list) -> list:
        taken = list(waiting)
        waiting.clear()
        return taken
