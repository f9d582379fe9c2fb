"""Operations end once, in whatever way."""

from __future__ import annotations

import pytest

from broker.client.errors import error_of
from tests.client.fake_driver import Bench, End


def test_a_call_has_its_arguments_its_timeout_and_its_result():
    bench = Bench().connected()
    end = End(bench.verbs.call("add", 2, {"b": 3}, timeout=1.5, recipient="bob"))
    (frame,) = bench.take()
    assert frame == {
        "type": "call",
        "id": frame["id"],
        "method": "add",
        "timeout": 1500,
        "recipient": "bob",
        "payload": [2, {"b": 3}],
    }
    bench.answer(frame, [5])
    assert end.results == [[5]]
    bench.answer(frame, [6])
    assert end.results == [[5]]


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        ("SocketErrorConnectionUnsupported|||socket:connection:unsupported:method:x|||", "NOT_FOUND"),
        ("SocketErrorConnection|||socket:connection:lost:x|||", "GONE"),
        ("SocketErrorTimeout|||socket:timeout:call|||", "TIMEOUT"),
        ("SocketErrorConnectionUnauthorized|||socket:connection:unauthorized:call|||", "UNAUTHENTICATED"),
        ("ForbiddenAuthorizationError|||auth:authorization:forbidden:call:x|||", "DENIED"),
        ("SocketErrorMessageMalformed|||socket:message:malformed:payload|||", "INVALID"),
        ("SocketErrorMessage|||socket:message:exists:x|||", "TAKEN"),
        ("SocketErrorMessage|||socket:message:conflict:812|||", "CONFLICT"),
        ("SocketErrorMessage|||socket:message:limit:rate|||", "RATE_LIMITED"),
        ("SocketErrorMessage|||socket:message:limit:subscriptions|||", "RATE_LIMITED"),
        ("SocketErrorMessage|||socket:message:limit:value|||", "TOO_LARGE"),
        ("SocketErrorMessage|||socket:message:busy:x|||", "BUSY"),
        ("SocketErrorMessage|||socket:message:cancelled:x|||", "CANCELLED"),
        ("SocketError|||socket:internal|||", "UNAVAILABLE"),
        ("AuthManagerErrorAuthenFailed|||auth:manager:authen:token|||", "UNAUTHENTICATED"),
        ("OutOfStock|||none left|||", "OutOfStock"),
        ("ResilientError|||User not found|||", "ResilientError"),
        ("SocketErrorMessage|||of an application|||", "SocketErrorMessage"),
        ("no marks", "ResilientError"),
    ],
)
def test_each_error_of_the_wire_has_its_exception(wire, code):
    error = error_of(wire)
    assert error.code == code
    assert error.message == (wire.split("|||")[1] if "|||" in wire else wire)


def test_every_code_of_the_broker_has_an_exception_here():
    from broker import client, errors

    ours = {
        each.code for each in vars(client).values() if isinstance(each, type) and issubclass(each, client.ClientError)
    }
    theirs = {
        each.code for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.BrokerError)
    }
    assert theirs <= ours


def test_a_conflict_has_the_newest_id():
    error = error_of("SocketErrorMessage|||socket:message:conflict:812|||")
    assert getattr(error, "head", None) == 812


def test_a_deadline_ends_a_call_here_too():
    bench = Bench().connected()
    end = End(bench.verbs.call("slow", timeout=2.0))
    (frame,) = bench.take()
    bench.advance(2.0)
    assert end.errors == ["TIMEOUT"]
    bench.answer(frame, "late")
    assert end.results == []


def test_a_late_answer_comes_to_who_wants_it():
    bench = Bench(late_window=10.0).connected()
    late: list[object] = []
    first, second = (End(bench.verbs.call("slow", timeout=2.0, on_late=late.append)) for _ in range(2))
    frames = bench.take()
    assert [frame["timeout"] for frame in frames] == [12000, 12000]
    bench.advance(3.0)
    bench.answer(frames[0], 7)
    bench.advance(11.0)
    bench.answer(frames[1], 8)
    assert (first.errors, second.errors, late, bench.core.statistics().late) == (["TIMEOUT"], ["TIMEOUT"], [7], 1)


def test_a_cancelled_call_is_cancelled_at_the_broker():
    bench = Bench().connected()
    call = bench.verbs.call("slow")
    end, (frame,) = End(call), bench.take()
    call.cancel()
    assert end.errors == ["CANCELLED"]
    assert [(each["method"], each["payload"]) for each in bench.take()] == [("broker.cancel", [frame["id"]])]


def test_what_was_not_sent_is_cancelled_here_alone():
    bench = Bench().connected()
    bench.lose()
    call = bench.verbs.call("slow")
    end = End(call)
    call.cancel()
    bench.back()
    assert (end.errors, bench.methods()) == (["CANCELLED"], [])


def test_a_loss_ends_calls_and_keeps_what_the_broker_knows_by_a_key():
    bench = Bench().connected()
    call = End(bench.verbs.call("pay"))
    keyed = End(bench.verbs.publish("t", 1, durable=True, key="k"))
    without = End(bench.verbs.publish("t", 1, durable=True))
    read, write = End(bench.verbs.get("a")), End(bench.verbs.set("a", "1"))
    job, free = End(bench.verbs.enqueue("q", 1, key="j")), End(bench.verbs.enqueue("q", 1))
    sent = bench.take()
    bench.lose()
    assert [end.errors for end in (call, without, write, free)] == [["CONNECTION_LOST"]] * 4
    assert [keyed.pending, read.pending, job.pending] == [True, True, True]
    bench.back()
    again = bench.take()
    assert [frame["method"] for frame in again] == ["broker.publish", "broker.get", "broker.enqueue"]
    assert again[0] == sent[1]
    bench.answer(again[0], {"epoch": "e", "id": 1, "time": 5, "duplicate": True})
    assert keyed.results[0].duplicate


def test_what_is_sent_again_keeps_its_place():
    bench = Bench().connected()
    for number in range(3):
        bench.verbs.publish("t", number, durable=True, key=f"k{number}")
    bench.lose()
    bench.verbs.publish("t", 3, durable=True, key="k3")
    bench.take()
    bench.back()
    assert [frame["payload"][1] for frame in bench.take()] == [0, 1, 2, 3]


def test_it_is_not_sent_again_when_the_broker_may_have_forgotten_the_key():
    bench = Bench(resend_window=5.0).connected()
    end = End(bench.verbs.publish("t", 1, durable=True, key="k", timeout=0))
    bench.advance(6.0)
    bench.lose()
    assert end.errors == ["CONNECTION_LOST"]


@pytest.mark.parametrize(
    ("of_client", "of_call", "fails"),
    [(True, None, False), (True, False, True), (False, None, True), (False, True, False)],
)
def test_without_a_connection_calls_wait_or_fail_as_asked(of_client, of_call, fails):
    bench = Bench(wait=of_client).connected()
    bench.lose()
    bench.take()
    end = End(bench.verbs.call("p", wait=of_call))
    assert end.errors == (["NOT_CONNECTED"] if fails else [])
    bench.back()
    assert bench.methods() == ([] if fails else ["p"])


def test_the_deadline_counts_while_it_waits():
    bench = Bench().connected()
    bench.lose()
    end = End(bench.verbs.call("p", timeout=0.2))
    bench.advance(0.2)
    assert end.errors == ["TIMEOUT"]
    bench.back()
    assert bench.methods() == []


def test_the_buffer_is_bounded_in_messages_and_in_bytes():
    bench = Bench(max_buffered=2, max_buffered_bytes=200).connected()
    bench.lose()
    ends = [End(bench.verbs.call("p")) for _ in range(3)]
    assert [end.errors for end in ends] == [[], [], ["BUFFER_FULL"]]
    other = Bench(max_buffered_bytes=100)
    assert End(other.verbs.call("p", "x" * 100)).errors == ["BUFFER_FULL"]


def test_what_is_too_large_is_not_sent():
    bench = Bench(max_message_bytes=100).connected()
    assert End(bench.verbs.call("p", "x" * 100)).errors == ["TOO_LARGE"]
    assert bench.take() == []


def test_what_the_broker_finds_too_large_is_not_sent_for_ever():
    bench = Bench().connected()
    small = End(bench.verbs.publish("t", 1, durable=True, key="a"))
    large = End(bench.verbs.publish("t", "x" * 500, durable=True, key="b"))
    bench.lose(1009)
    assert (small.errors, large.errors) == ([], ["TOO_LARGE"])


def test_a_refusal_for_the_rate_slows_down_and_asks_again_what_may_be():
    bench = Bench().connected()
    read, call = End(bench.verbs.get("k")), End(bench.verbs.call("p"))
    frames = bench.take()
    for frame in frames:
        bench.refuse(frame, "SocketErrorMessage|||socket:message:limit:rate|||")
    assert (read.pending, call.errors) == (True, ["RATE_LIMITED"])
    assert bench.take() == []
    bench.advance(1.5)
    (again,) = bench.take()
    bench.answer(again, {"key": "k", "value": "v", "revision": 3})
    assert read.results[0].value == "v"
    assert bench.core.statistics().rate_limited == 2


def test_it_asks_again_when_the_broker_says_that_it_may():
    bench = Bench().connected()
    read = End(bench.verbs.get("k"))
    bench.refuse(bench.take()[0], "SocketErrorMessage|||socket:message:limit:rate|||", retry_after=7.5)
    notice = bench.driver.notices[-1]
    assert (notice.kind, notice.delay, notice.error.retry_after) == ("rate-limited", 7.5, 7.5)
    bench.advance(7.4)
    assert bench.take() == []
    bench.advance(1.2)
    assert ([frame["method"] for frame in bench.take()], read.pending) == (["broker.get"], True)


def test_the_rate_can_be_changed_at_any_time():
    bench = Bench(rate=2.0).connected()
    for _ in range(5):
        bench.verbs.call("p")
    assert len(bench.take()) == 1
    bench.advance(1.0)
    assert len(bench.take()) == 2
    bench.core.pending.set_rate(None)
    assert len(bench.take()) == 2


def test_an_answer_that_can_not_be_read_is_an_error():
    bench = Bench().connected()
    end = End(bench.verbs.get("k"))
    bench.answer(bench.take()[0], [1])
    assert end.errors == ["INTERNAL"]


def test_nothing_is_kept_of_what_has_ended():
    bench = Bench().connected()
    for number in range(1000):
        bench.verbs.call("p", number)
        bench.answer(bench.take()[0], number)
    assert (len(bench.core.pending), len(bench.core.timers)) == (0, 1)  # the ping
    assert len(bench.core.timers._heap) < 200
