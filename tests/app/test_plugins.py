"""What dialects do at the start and at the stop of the daemon."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from broker.app.plugins import STOP_TIMEOUT, PluginLife
from broker.app.process import StartError
from broker.errors import Denied
from broker.testing import make_broker, value_of
from tests.support.logs import failures_of, lines_of


class Plugin:
    """Does what the test says, and notes what it was asked."""

    def __init__(self, starting: Any = None, stopping: Any = None, **settings: Any) -> None:
        self.clock = Clock()
        self.broker = make_broker(self.clock, **settings)
        self.peer: Any = None
        self.starting, self.stopping = starting, stopping
        self.stopped = 0
        self.life = PluginLife("tally", self.start, self.stop, self.broker.attach, self.clock)

    def start(self, peer: Any) -> Any:
        self.peer = peer
        if isinstance(self.starting, Exception):
            raise self.starting
        return self.starting

    def stop(self) -> Any:
        self.stopped += 1
        if isinstance(self.stopping, Exception):
            raise self.stopping
        return self.stopping


def test_its_peer_may_do_everything_and_has_a_name() -> None:
    plugin = Plugin(api_secret="s")
    plugin.life.start()
    assert (plugin.peer.admitted, plugin.peer.client, plugin.peer.dialect) == (True, "broker.dialect.tally", "tally")
    assert value_of(plugin.peer.post("news", "e", b"1")).id == 1


def test_its_name_is_nobody_elses() -> None:
    plugin = Plugin()
    plugin.life.start()
    other = plugin.broker.attach("test", "127.0.0.1")
    with pytest.raises(Denied):
        value_of(other.take_name("broker.dialect.tally"))


def test_its_peer_is_closed_when_it_has_stopped() -> None:
    stopping: Deferred[None] = Deferred()
    plugin = Plugin(stopping=stopping)
    plugin.life.start()
    done = Deferred.fromCoroutine(plugin.life.stop())
    assert not plugin.peer.closed
    stopping.callback(None)
    assert (done.called, plugin.peer.closed, plugin.stopped) == (True, True, 1)


def test_a_stop_that_does_not_end_is_given_up(logged: Any) -> None:
    plugin = Plugin(stopping=Deferred())
    plugin.life.start()
    done = Deferred.fromCoroutine(plugin.life.stop())
    plugin.clock.advance(STOP_TIMEOUT)
    assert (done.called, plugin.peer.closed) == (True, True)
    assert "tally: stop has not ended in time" in lines_of(logged)


def test_a_start_that_raises_stops_the_daemon() -> None:
    plugin = Plugin(starting=RuntimeError("no weather"))
    with pytest.raises(StartError, match="dialect tally: no weather"):
        plugin.life.start()


def test_a_start_that_fails_later_is_logged_and_one_that_goes_on_is_cancelled(logged: Any) -> None:
    Plugin(starting=fail(RuntimeError("late"))).life.start()
    assert [str(failure) for failure in failures_of(logged)] == ["late"]
    cancelled: list[bool] = []
    plugin = Plugin(starting=Deferred(lambda _: cancelled.append(True)))
    plugin.life.start()
    value_of(plugin.life.stop())
    assert cancelled == [True]
    assert len(failures_of(logged)) == 1


def test_a_stop_that_raises_closes_the_peer_all_the_same(logged: Any) -> None:
    plugin = Plugin(stopping=RuntimeError("ours"))
    plugin.life.start()
    value_of(plugin.life.stop())
    assert plugin.peer.closed
    assert [str(failure) for failure in failures_of(logged)] == ["ours"]


def test_one_that_has_not_started_is_not_stopped() -> None:
    plugin = Plugin()
    value_of(plugin.life.stop())
    assert plugin.stopped == 0
