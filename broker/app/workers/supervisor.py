"""Starts the workers, replaces those that end or stand still, and stops them together."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver, Logger

from broker.app.logged import LoggedService
from broker.app.process import StartError
from broker.app.workers.process import ENDED, SERVING, WorkerCommand, WorkerProcess
from broker.web.net.sharing import ABSENT, SharedCounts

log = Logger()

LOOK = 0.5  # seconds between two looks at who says nothing
START_TIMEOUT = 60.0  # seconds until a worker serves clients
LAST_WORDS = 2.0  # seconds for one that stands still to write where it is
ACT_TIMEOUT = 5.0  # seconds that one has to do what it is told to
GRACE = 10.0  # seconds beyond the drain until those that have not ended are killed
MIN_DELAY, MAX_DELAY = 0.25, 30.0  # seconds until a worker is started again that has not lived for long
STABLE = 10.0  # seconds after which one has lived for long
MAX_FAILURES = 5  # starts of one worker in a row, while none serves clients


class Supervisor(LoggedService):
    """The daemon as the process that twistd runs, where it has several workers.

    Args:
        reactor: the reactor.
        count: how many workers there are.
        counts: of their connections.
        bind: binds all sockets; returns how workers are started.
        unbind: closes them.
        announce: called once, when all serve clients.
        give_up: called with the exit status if they can not start.
        drain_seconds: how long a stop waits for what is under way.
        timeout: seconds after which one that says nothing is replaced; 0: it is not.
        observer: see ``LoggedService``.

    Attributes:
        reactor: as above.
        workers: by their numbers, from 1; of each that is to be replaced the one before.
        others: services that start first, and stop when the last worker has gone.
        ended: called with each worker that has ended.
        sampled: called with each worker and each sample of what it does.
        restarts: how often one was started again.
        draining: whether they take no new clients.
    """

    def __init__(
        self,
        reactor: Any,
        count: int,
        counts: SharedCounts,
        bind: Callable[[], WorkerCommand],
        unbind: Callable[[], object],
        *,
        announce: Callable[[], object] = lambda: None,
        give_up: Callable[[int], object] = lambda status: None,
        drain_seconds: float = 10.0,
        timeout: float = 0.0,
        observer: ILogObserver | None = None,
    ) -> None:
        super().__init__(observer)
        self.reactor: Any = reactor
        self._count, self._counts = count, counts
        self._bind, self._unbind = bind, unbind
        self._announce, self._give_up = announce, give_up
        self.others: list[IService] = []
        self.ended: list[Callable[[WorkerProcess], object]] = []
        self.sampled: list[Callable[[WorkerProcess, Mapping[str, Any]], object]] = []
        self.drain_seconds = drain_seconds
        self._timeout = timeout
        self._command: WorkerCommand | None = None
        self.workers: dict[int, WorkerProcess] = {}
        self._began: dict[int, float] = {}
        self._failures: dict[int, int] = {}  # in a row
        self._delayed: dict[int, IDelayedCall] = {}
        self._announced = self._stopping = self.draining = False
        self.restarts = 0
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor

    def privilegedStartService(self) -> None:
        """Bind the sockets, before ``twistd --uid`` becomes another user.

        Raises:
            StartError: one can not be bound.
        """
        self._command = self._bind()
        for other in self.others:
            other.privilegedStartService()
        super().privilegedStartService()

    def startService(self) -> None:
        """Start the workers.

        Raises:
            StartError: they can not be.
        """
        super().startService()
        for other in self.others:
            other.startService()
        self._looking.start(LOOK, now=False)
        for number in range(1, self._count + 1):
            self._start(number)

    @property
    def serving(self) -> list[WorkerProcess]:
        """Those that serve clients now, in order."""
        return [worker for worker in self.workers.values() if worker.state == SERVING]

    @property
    def alive(self) -> list[WorkerProcess]:
        """Those whose process runs."""
        return [worker for worker in self.workers.values() if worker.status is None]

    def reasons(self) -> list[str]:
        """Return why no worker can do its work; [] when one can."""
        told = {worker.number: list(worker.reasons) for worker in self.workers.values()}
        if any(not reasons for reasons in told.values()):
            return []
        if not told:
            return ["not started"]
        # What all say is said once.
        return list(dict.fromkeys(reason for reasons in told.values() for reason in reasons))

    def all_do(self, name: str) -> Deferred[Any]:
        """Let all workers do what is called *name*; fires when those have that can, or after a while."""
        done = [worker.do(name).addTimeout(ACT_TIMEOUT, self.reactor) for worker in self.alive]
        return DeferredList(done, consumeErrors=True)

    def drain(self) -> None:
        """Let the clients go, and take no new ones; a no-op if they do already."""
        if not self.draining and not self._stopping:
            self.draining = True
            log.info("draining: all workers let their clients go, and take no new ones")
            self.all_do("drain")

    def stop_now(self) -> None:
        """Do not wait for what is under way when it stops, or if it is stopping already."""
        self.drain_seconds = 0.0
        if self._stopping:
            for worker in self.alive:
                worker.stop(at_once=True)

    def stopService(self) -> Deferred[None]:
        """Stop the workers, then all else."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        log.info("stopping {count} workers", count=len(self.alive))
        self._stopping = True
        for call in self._delayed.values():
            call.cancel()
        self._delayed.clear()
        stopping = self.alive
        for worker in stopping:
            worker.stop(at_once=not self.drain_seconds)
        late = self.reactor.callLater(self.drain_seconds + GRACE, self._kill_rest)
        await DeferredList([worker.ended for worker in stopping])
        if late.active():
            late.cancel()
        if self._looking.running:
            self._looking.stop()
        for other in self.others:
            await maybeDeferred(other.stopService)
        self._unbind()
        await maybeDeferred(super().stopService)
        log.info("stopped")

    def _kill_rest(self) -> None:
        for worker in self.alive:
            log.error("worker {worker} has not ended in time, and is killed", worker=worker.number)
            worker.signal(signal.SIGKILL)

    # Their lives

    def _start(self, number: int) -> None:
        assert self._command is not None, "the sockets are not bound"
        self._delayed.pop(number, None)
        worker = WorkerProcess(number, self._on_ready, self._on_end, self._on_sample, self.workers.get)
        before = self.workers.get(number)
        self.workers[number] = worker
        self._counts[number - 1] = ABSENT
        self._began[number] = self.reactor.seconds()
        try:
            worker.start(self.reactor, self._command)
        except OSError as error:
            if before is None:
                raise StartError(f"worker {number} can not be started: {error}") from error
            self.workers[number] = before
            log.error("worker {worker} can not be started: {reason}", worker=number, reason=str(error))
            self._start_later(number)

    def _on_ready(self, worker: WorkerProcess) -> None:
        self._began[worker.number] = self.reactor.seconds()
        if self.draining:
            worker.do("drain").addErrback(lambda _: None)
        if not self._announced and len(self.serving) == self._count:
            self._announced = True
            self._announce()

    def _on_sample(self, worker: WorkerProcess, sample: Mapping[str, Any]) -> None:
        for each in self.sampled:
            each(worker, sample)

    def _on_end(self, worker: WorkerProcess) -> None:
        number = worker.number
        for each in self.ended:
            each(worker)
        self._counts[number - 1] = ABSENT
        if self._stopping or self.workers.get(number) is not worker:
            return
        how = told(worker.status)
        if self._hopeless(worker):
            log.critical("worker {worker} can not start: it has ended {how}", worker=number, how=how)
            self._give_up(max(worker.status or 0, 0) or 1)
            return
        log.error("worker {worker} has ended {how}", worker=number, how=how, pid=worker.pid)
        if not self.draining:
            self._start_later(number)

    def _hopeless(self, worker: WorkerProcess) -> bool:
        """Whether no worker will ever serve clients: its settings can not be used, or it has failed again and again."""
        number = worker.number
        lived = worker.was_ready and self.reactor.seconds() - self._began[number] >= STABLE
        self._failures[number] = 0 if lived else self._failures.get(number, 0) + 1
        if self.serving or worker.was_ready:
            return False
        says_so = not self._announced and (worker.status or 0) > 0
        return says_so or self._failures[number] >= MAX_FAILURES

    def _start_later(self, number: int) -> None:
        failures = self._failures.get(number, 0)
        delay = min(MAX_DELAY, MIN_DELAY * 2 ** (failures - 1)) if failures else 0.0
        self.restarts += 1
        log.info("worker {worker} is started again in {seconds:g} s", worker=number, seconds=delay)
        self._delayed[number] = self.reactor.callLater(delay, self._start, number)

    def _look(self) -> None:
        """Look who says nothing.  Looks are counted, not seconds: if this process stands still, they have spoken."""
        for worker in self.alive:
            worker.silent += 1
            limit = self._timeout if worker.was_ready else START_TIMEOUT
            if limit and worker.silent * LOOK >= limit:
                self._replace(worker)

    def _replace(self, worker: WorkerProcess) -> None:
        seconds = worker.silent * LOOK
        log.error(
            "worker {worker} has said nothing for {seconds:g} s: it is replaced", worker=worker.number, seconds=seconds
        )
        worker.silent = -round(LAST_WORDS * 2 / LOOK)
        worker.state, worker.reasons = ENDED, ["it stands still"]
        self._counts[worker.number - 1] = ABSENT
        worker.signal(signal.SIGABRT)  # it writes where it stands
        self.reactor.callLater(LAST_WORDS, worker.signal, signal.SIGKILL)


def told(status: int | None) -> str:
    """Return in words how a process has ended."""
    if status is not None and status < 0:
        try:
            return f"by {signal.Signals(-status).name}"
        except ValueError:
            return f"by signal {-status}"
    return f"with the status {status}"
