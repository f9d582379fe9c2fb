"""Asks the workers for their metrics, and has what they have said last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.internet import TimerService
from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from broker.app.workers.process import WorkerProcess
from broker.app.workers.sums import Family, MetricSums, parse
from broker.core.time_limits import within
from broker.messages import HttpRequest
from broker.observe.exposition import Exposition
from broker.observe.metrics import Metrics

TIMEOUT = 2.0  # seconds until one counts with what it has said before
INTERVAL = 10.0  # seconds between two times: what one has counted since is lost if it is killed
METRICS = HttpRequest("GET", "/metrics", "", {"host": "localhost"})


class Scrapes(TimerService):
    """The metrics of all workers, and of this process.

    Args:
        clock: the reactor.
        serving: returns the workers that can be asked.
        metrics: of this process.
    """

    def __init__(self, clock: Any, serving: Callable[[], list[WorkerProcess]], metrics: Metrics) -> None:
        super().__init__(INTERVAL, self.refresh)
        self.clock = self._clock = clock
        self._serving, self._exposition = serving, Exposition(metrics)
        self._sums = MetricSums()
        self._last: dict[WorkerProcess, dict[str, Family]] = {}

    def refresh(self) -> Deferred[Any]:
        """Ask all; fires without failing."""
        return DeferredList([self._ask(worker) for worker in self._serving()], consumeErrors=True)

    def text(self) -> tuple[bytes, str]:
        """Return what was said last, as one text, with its content type."""
        told = {0: parse(self._exposition.text().decode()), **{one.number: found for one, found in self._last.items()}}
        return self._sums.text(told).encode(), self._exposition.content_type

    def ended(self, worker: WorkerProcess) -> None:
        """Keep what *worker* has counted."""
        self._sums.ended(self._last.pop(worker, {}))

    def _ask(self, worker: WorkerProcess) -> Deferred[Any]:
        asking = within(TIMEOUT, self._clock, worker.answer(METRICS))
        return asking.addCallbacks(lambda response: self._keep(worker, response.body), _silent)

    def _keep(self, worker: WorkerProcess, text: bytes) -> None:
        if worker.status is None:  # else it was counted with those that have ended
            self._last[worker] = parse(text.decode())


def _silent(failure: Failure) -> None:
    """Go on with what it has said before."""
