"""When a worker is started again, and when the daemon gives up."""

from __future__ import annotations

import signal
from typing import Any, cast

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from broker.app.process import StartError
from broker.app.workers import supervisor as module
from broker.app.workers.process import WorkerProcess
from broker.app.workers.supervisor import LOOK, MAX_FAILURES, STABLE, Supervisor, told
from broker.app.workers.worker import HEARTBEAT, HELLO, READY
from broker.web.net.sharing import SharedCounts

encode = msgspec.msgpack.encode


class FakeTransport:
    """The process of a worker, which ends when it is told to."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker
        self.signals: list[int] = []
        self.obeys = True

    def signalProcess(self, number: int) -> None:
        self.signals.append(number)
        if number == signal.SIGKILL:
            end(self.worker, -9)
        elif self.obeys and number in (signal.SIGTERM, signal.SIGINT):
            end(self.worker, 0)


def end(worker: WorkerProcess, status: int) -> None:
    """Let its process end with *status*."""
    if worker.status is None:
        ended = ProcessDone(0) if status == 0 else ProcessTerminated(max(status, 0), -min(status, 0) or None, status)
        worker.processEnded(Failure(ended))


def say(worker: WorkerProcess, name: str, content: object = None) -> None:
    worker._told(name, encode(content))


class Scene:
    """A supervisor of two workers that are no processes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.clock = Clock()
        self.said: list[object] = []
        self.fails = False

        def start(worker: WorkerProcess, reactor: object, command: object) -> None:
            if self.fails:
                raise OSError("no more processes")
            worker.transport = cast(Any, FakeTransport(worker))
            worker.pid = 1000 + worker.number

        monkeypatch.setattr(WorkerProcess, "start", start)
        self.supervisor = Supervisor(
            self.clock,
            2,
            SharedCounts.make(2),
            lambda: cast(Any, self),
            lambda: self.said.append("unbound"),
            announce=lambda: self.said.append("announced"),
            give_up=lambda status: self.said.append(status),
            timeout=5.0,
            **options,
        )
        self.supervisor.privilegedStartService()

    def start(self) -> Scene:
        self.supervisor.startService()
        return self

    def serve(self) -> Scene:
        self.start()
        for number in (1, 2):
            say(self.worker(number), READY, {"node": f"n-{number}"})
        return self

    def worker(self, number: int) -> WorkerProcess:
        return self.supervisor.workers[number]

    def advance(self, seconds: float, *silent: int) -> None:
        """Let time pass, in which all but the *silent* say that they are there."""
        for _ in range(round(seconds / LOOK)):
            self.clock.advance(LOOK)
            for worker in self.supervisor.alive:
                if worker.number not in silent:
                    say(worker, HEARTBEAT, [])


@pytest.fixture
def scene(monkeypatch):
    return Scene(monkeypatch)


def test_it_is_announced_once_when_all_serve_clients(scene):
    scene.start()
    assert scene.supervisor.reasons() == ["starting"]
    say(scene.worker(1), READY, {})
    assert (scene.said, scene.supervisor.reasons()) == ([], [])
    say(scene.worker(2), READY, {})
    assert scene.said == ["announced"]
    assert len(scene.supervisor.serving) == 2


def test_one_that_has_lived_for_long_is_replaced_at_once(scene):
    scene.serve()
    scene.advance(STABLE)
    before = scene.worker(1)
    end(before, -9)
    scene.clock.advance(0)
    assert scene.worker(1) is not before
    assert scene.supervisor.restarts == 1


def test_one_that_ends_again_and_again_waits_longer_each_time(scene):
    scene.serve()
    gaps = []
    for _ in range(4):
        end(scene.worker(1), 1)
        before, waited = scene.worker(1), 0.0
        while scene.worker(1) is before:
            scene.clock.advance(0.25)
            waited += 0.25
            say(scene.worker(2), HEARTBEAT, [])
        gaps.append(waited)
    assert gaps == [0.25, 0.5, 1.0, 2.0]
    assert scene.said == ["announced"]  # the other one serves


def test_a_worker_that_says_why_it_can_not_start_ends_the_daemon(scene):
    scene.start()
    end(scene.worker(1), 2)
    assert scene.said == [2]


def test_one_that_is_killed_while_it_starts_is_started_again_but_not_for_ever(scene):
    scene.start()
    for _ in range(MAX_FAILURES - 1):
        end(scene.worker(1), -9)
        scene.clock.advance(60)
    assert scene.said == []
    end(scene.worker(1), -9)
    assert scene.said == [1]


def test_a_later_failure_to_start_ends_nothing_while_another_serves(scene):
    scene.serve()
    for _ in range(2 * MAX_FAILURES):
        end(scene.worker(1), 2)
        scene.advance(31, 1)
    assert scene.said == ["announced"]


def test_one_that_says_nothing_writes_where_it_stands_and_is_killed(scene):
    scene.serve()
    worker = scene.worker(2)
    scene.advance(4.5, 2)
    assert worker.transport.signals == []
    scene.advance(0.5, 2)
    assert worker.transport.signals == [signal.SIGABRT]
    assert scene.supervisor.serving == [scene.worker(1)]
    scene.advance(2, 2)
    assert worker.transport.signals == [signal.SIGABRT, signal.SIGKILL]
    scene.advance(1, 2)
    assert scene.worker(2) is not worker


def test_to_stand_still_itself_makes_it_suspect_nobody(scene):
    scene.serve()
    scene.clock.advance(3600)
    assert [worker.transport.signals for worker in scene.supervisor.alive] == [[], []]


def test_what_one_is_told_before_it_listens_is_done_when_it_does(scene, monkeypatch):
    scene.start()
    asked: list[str] = []
    monkeypatch.setattr(scene.worker(1)._link, "ask", lambda name: asked.append(name) or Deferred())
    scene.supervisor.all_do("reload")
    assert asked == []
    say(scene.worker(1), HELLO, 1)
    assert asked == ["reload"]


def test_a_stop_waits_for_all_and_starts_nobody_again(scene):
    scene.serve()
    for number in (1, 2):
        scene.worker(number).transport.obeys = False
    stopped = scene.supervisor.stopService()
    assert [worker.transport.signals for worker in scene.supervisor.alive] == [[signal.SIGTERM]] * 2
    end(scene.worker(1), 0)
    assert not stopped.called
    scene.clock.advance(scene.supervisor.drain_seconds + module.GRACE)
    assert stopped.called
    assert scene.worker(2).status == -9
    assert scene.said == ["announced", "unbound"]
    assert scene.clock.getDelayedCalls() == []


def test_a_second_signal_makes_a_stop_quick(scene):
    scene.serve()
    for number in (1, 2):
        scene.worker(number).transport.obeys = False
    scene.supervisor.stopService()
    scene.supervisor.stop_now()
    assert scene.worker(1).transport.signals == [signal.SIGTERM, signal.SIGINT]


def test_while_it_drains_nobody_is_started_again(scene):
    scene.serve()
    scene.supervisor.drain()
    end(scene.worker(1), 0)
    scene.advance(60)
    assert scene.worker(1).status == 0


def test_no_process_can_be_had(scene):
    scene.fails = True
    with pytest.raises(StartError, match="worker 1 can not be started: no more processes"):
        scene.start()


def test_no_process_can_be_had_for_one_that_has_ended(scene):
    scene.serve()
    end(scene.worker(1), -9)
    scene.fails = True
    scene.advance(1)
    scene.fails = False
    scene.advance(31)
    assert scene.worker(1).status is None


def test_the_end_of_a_process_in_words():
    assert [told(status) for status in (0, 2, -9, -64, None)] == [
        "with the status 0",
        "with the status 2",
        "by SIGKILL",
        "by SIGRTMAX",
        "with the status None",
    ]
