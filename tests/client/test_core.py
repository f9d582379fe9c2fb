"""The states of a client's connection."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.client.states import State
from tests.client.fake_driver import Bench, End


def idle() -> Bench:
    return Bench()


def connecting() -> Bench:
    bench = Bench()
    bench.core.start()
    return bench


def greeting() -> Bench:
    bench = connecting()
    bench.core.connected()
    return bench


def ready() -> Bench:
    return Bench().connected()


def waiting() -> Bench:
    bench = ready()
    bench.lose()
    return bench


def closing() -> Bench:
    bench = ready()
    bench.core.close()
    return bench


def stopped() -> Bench:
    bench = connecting()
    bench.core.close()
    return bench


STATES: dict[State, Callable[[], Bench]] = {
    State.IDLE: idle,
    State.CONNECTING: connecting,
    State.GREETING: greeting,
    State.READY: ready,
    State.WAITING: waiting,
    State.CLOSING: closing,
    State.STOPPED: stopped,
}
INPUTS: dict[str, Callable[[Bench], object]] = {
    "connected": lambda bench: bench.core.connected(),
    "a frame": lambda bench: bench.core.received(b'{"type":"pong"}'),
    "no frame": lambda bench: bench.core.received(b"nonsense"),
    "lost": lambda bench: bench.core.disconnected(1006, ""),
    "restart": lambda bench: bench.core.disconnected(1012, ""),
    "final": lambda bench: bench.core.disconnected(3500, ""),
    "policy": lambda bench: bench.core.disconnected(1008, "bad"),
    "401": lambda bench: bench.core.refused(401, "bad"),
    "403": lambda bench: bench.core.refused(403, "no"),
    "503": lambda bench: bench.core.refused(503, "later", 3.0),
    "start": lambda bench: bench.core.start(),
    "close": lambda bench: bench.core.close(),
    "a minute": lambda bench: bench.advance(60.0),
}
C, G, R, W, X, S = (State.CONNECTING, State.GREETING, State.READY, State.WAITING, State.CLOSING, State.STOPPED)
# What comes of it, in the order of the inputs; None: the state stays.
TABLE: dict[State, list[State | None]] = {
    State.IDLE: [None, None, None, None, None, None, None, None, None, None, C, S, None],
    State.CONNECTING: [G, None, None, W, W, S, S, S, S, W, None, S, C],
    State.GREETING: [None, None, None, W, W, S, S, None, None, None, None, X, C],
    State.READY: [None, None, None, W, W, S, S, None, None, None, None, X, C],
    State.WAITING: [None, None, None, None, None, None, None, None, None, None, None, S, C],
    State.CLOSING: [None, None, None, S, S, S, S, S, S, S, None, None, S],
    State.STOPPED: [None] * 13,
}


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.value)
@pytest.mark.parametrize("given", INPUTS)
def test_every_input_in_every_state(state, given):
    bench = STATES[state]()
    assert bench.state is state
    expected = TABLE[state][list(INPUTS).index(given)]
    INPUTS[given](bench)
    if expected is C and given == "a minute":  # it tries again and again
        assert bench.state in (State.CONNECTING, State.WAITING)
    else:
        assert bench.state is (expected or state)


def test_it_is_ready_when_the_broker_has_said_who_it_is():
    bench = Bench()
    begun = End(bench.core.start())
    bench.core.connected()
    (whoami,) = bench.take()
    assert (whoami["method"], whoami["payload"], begun.pending) == ("broker.whoami", [], True)
    bench.answer(whoami, {"id": "me", "session": "s1", "stage": "init"})
    assert begun.results[0].id == "me"
    assert bench.kinds == ["connecting", "ready"]


def test_waits_grow_with_jitter_and_for_ever():
    bench = Bench()
    bench.core.start()
    for _ in range(8):
        bench.lose()
        bench.advance(60.0) if bench.state is State.WAITING else None
        assert bench.state in (State.CONNECTING, State.WAITING)
    waits = [notice.delay for notice in bench.driver.notices if notice.kind == "waiting"]
    assert waits[:6] == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]  # half of 1, 2, 4, 8, 8 …


def test_a_limit_of_attempts_ends_it():
    bench = Bench(max_attempts=2)
    begun = End(bench.core.start())
    while bench.state is not State.STOPPED:
        bench.lose()
        bench.advance(8.0)
    assert begun.errors == ["NOT_CONNECTED"]
    assert bench.driver.acts.count("connect") >= 3


def test_a_connection_that_has_lasted_lets_the_waits_begin_anew():
    bench = Bench().connected()
    for _ in range(3):
        bench.advance(1.0)
        bench.lose()
        bench.back()
    assert [notice.delay for notice in bench.driver.notices if notice.kind == "waiting"] == [0.5, 0.5, 0.5]


def test_one_that_is_ended_at_once_does_not():
    bench = Bench().connected()
    for _ in range(3):
        bench.lose(1013)
        bench.back()
    assert [notice.delay for notice in bench.driver.notices if notice.kind == "waiting"] == [0.5, 1.0, 2.0]


def test_a_refusal_that_names_a_time_is_waited_for():
    bench = connecting()
    bench.core.refused(503, "later", 3.0)
    assert bench.driver.notices[-1].delay == 3.5


@pytest.mark.parametrize(("code", "status"), [(1008, 0), (4001, 0), (4003, 0), (0, 401)])
def test_a_bad_credential_ends_it_and_says_so(code, status):
    bench = connecting()
    begun = End(bench.core.start())
    bench.core.disconnected(code, "wrong") if code else bench.core.refused(status, "wrong")
    assert begun.errors == ["UNAUTHENTICATED"]
    assert bench.kinds[-2:] == ["auth-failed", "stopped"]
    assert End(bench.verbs.get("k")).errors == ["UNAUTHENTICATED"]


def test_who_can_get_another_credential_tries_it_but_not_for_ever():
    bench = Bench(renewable=True)
    begun = End(bench.core.start())
    for attempt in range(1, 6):
        assert begun.pending
        bench.core.refused(401, "expired")
        bench.advance(8.0) if attempt < 5 else None
    assert begun.errors == ["UNAUTHENTICATED"]
    assert bench.kinds.count("auth-failed") == 5


def test_a_name_that_somebody_else_has_ends_it():
    bench = connecting()
    begun = End(bench.core.start())
    bench.core.refused(403, "ForbiddenAuthorizationError|||auth:authorization:forbidden:act:bob|||")
    assert begun.errors == ["DENIED"]


def test_a_broker_that_does_not_say_who_it_is_in_time_is_left():
    bench = greeting()
    bench.advance(10.0)
    assert "abort" in bench.driver.acts
    assert bench.kinds[-1] == "waiting"


def test_silence_is_asked_about_and_ends_the_connection():
    bench = Bench(ping_interval=5.0, ping_timeout=2.0).connected()
    bench.advance(5.0)
    assert bench.methods() == ["ping"]
    bench.receive(type="pong")
    bench.advance(5.0)
    assert bench.methods() == ["ping"]
    bench.advance(2.0)
    assert "abort" in bench.driver.acts
    assert "lost" in bench.kinds


def test_whoever_hears_something_does_not_ask():
    bench = Bench(ping_interval=5.0, ping_timeout=2.0).connected()
    for _ in range(10):
        bench.advance(4.0)
        bench.receive(type="pong")
    assert bench.take() == []


def test_close_ends_all_that_is_under_way():
    bench = Bench().connected()
    call, late = End(bench.verbs.call("p")), End(bench.verbs.call("q"))
    ended = End(bench.core.close())
    assert (call.errors, late.errors, bench.driver.acts[-1]) == (["CLOSED"], ["CLOSED"], "close")
    bench.core.disconnected(1000, "")
    assert ended.results == [None]
    assert len(bench.core.timers) == 0


def test_a_close_that_the_broker_does_not_answer_ends_all_the_same():
    bench = Bench(close_timeout=1.0).connected()
    ended = End(bench.core.close())
    bench.advance(1.0)
    assert (ended.results, bench.driver.acts[-1], bench.state) == ([None], "abort", State.STOPPED)


def test_a_credential_is_shown_again_and_its_refusal_told():
    bench = Bench().connected()
    good, bad = End(bench.core.refresh("new")), End(bench.core.refresh("worse"))
    assert bench.take()[0] == {"type": "auth", "stage": "authenticate", "payload": {"token": "new"}}
    bench.receive(type="auth", stage="authenticated", payload={"token": "new"})
    bench.receive(type="auth", stage=None, payload="AuthManagerErrorAuthenFailed|||auth:manager:authen:token|||")
    assert (good.results, bad.errors, bench.state) == ([None], ["UNAUTHENTICATED"], State.READY)
    assert bench.kinds[-2:] == ["refreshed", "auth-failed"]


@pytest.mark.parametrize("renewable", [True, False])
def test_a_credential_that_expires_is_renewed_by_who_can(renewable):
    bench = Bench(renewable=renewable).connected()
    bench.receive(type="system", event="broker.expiring", payload={"expires": 1, "left": 30000})
    assert (bench.driver.notices[-1].kind, bench.driver.notices[-1].delay) == ("expiring", 30.0)
    assert ("renew" in bench.driver.acts) is renewable


def test_statistics_add_up():
    bench = Bench().connected()
    done, failed, slow, gone = (bench.verbs.call(name, timeout=5.0) for name in "abcd")
    frames = bench.take()
    bench.answer(frames[0], 1)
    bench.refuse(frames[1], "ResilientError|||no|||")
    gone.cancel()
    bench.advance(5.0)
    waits = bench.verbs.call("e")
    found = bench.core.statistics()
    assert (found.started, found.succeeded, found.failed, found.timed_out, found.cancelled, found.pending) == (
        (5, 1, 1, 1, 1, 1)
    )
    assert [each.ended for each in (done, failed, slow, waits)] == [True, True, True, False]


@pytest.mark.parametrize("payload", [[], "x", None, {"left": "soon", "topic": [], "error": {}}])
@pytest.mark.parametrize("event", ["broker.gap", "broker.cancel", "broker.expiring", "broker.error"])
def test_what_the_broker_says_amiss_is_understood_as_far_as_it_can_be(event, payload):
    bench = Bench().connected()
    bench.receive(type="system", id="1", event=event, payload=payload)
    assert bench.core.is_ready
