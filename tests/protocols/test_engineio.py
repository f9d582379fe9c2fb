"""Engine.IO v4 without a network: packets in, events out."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from protocols.microstream.engineio import (
    ALIVE,
    CLOSED,
    PROBED_EVENT,
    UPGRADED,
    Engine,
    Message,
    ProtocolError,
    State,
    Times,
    decode_payload,
    encode_payload,
    open_packet,
)

TIMES = Times(ping_interval=0.3, ping_timeout=0.2, max_payload=100)


@pytest.fixture
def clock():
    return Clock()


def polling(clock):
    return Engine(TIMES, clock, websocket=False)


def websocket(clock):
    return Engine(TIMES, clock, websocket=True)


def test_open_packet_has_exactly_five_keys():
    packet = open_packet("abc", Times(), upgrades=True)
    assert packet == (
        b'0{"sid":"abc","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}'
    )
    assert json.loads(open_packet("abc", TIMES, upgrades=False)[1:]) == {
        "sid": "abc",
        "upgrades": [],
        "pingInterval": 300,
        "pingTimeout": 200,
        "maxPayload": 100,
    }


# Messages


def test_a_message_comes_by_post(clock):
    assert polling(clock).receive_payload(b"4hello") == [Message(b"hello")]


def test_several_messages_come_in_one_post_and_go_in_one_answer(clock):
    engine = polling(clock)
    for event in engine.receive_payload(b"4test1\x1e4test2\x1e4test3"):
        engine.send(event.data)
    assert engine.poll() == b"4test1\x1e4test2\x1e4test3"
    assert engine.poll() == b""


def test_text_and_binary_share_a_payload(clock):
    engine = polling(clock)
    assert engine.receive_payload(b"4hello\x1ebAQIDBA==") == [Message(b"hello"), Message(b"\x01\x02\x03\x04", True)]
    engine.send(b"hello")
    engine.send(b"\x01\x02\x03\x04", True)
    assert engine.queued == 10
    assert engine.poll() == b"4hello\x1ebAQIDBA=="
    assert engine.queued == 0


def test_a_post_may_hold_fifty_packets(clock):
    times = Times()
    engine = Engine(times, clock, websocket=False)
    assert len(engine.receive_payload(b"\x1e".join([b"4x"] * 50))) == 50


@pytest.mark.parametrize(
    "body", [b"", b"abc", b"7", b"4a\x1e", b"\x1e4a", b"b!!!", b"bAQI", b"4\xff", b"4ok\x1eabc", b"2", b"2probe"]
)
def test_a_malformed_payload_is_refused_as_a_whole(clock, body):
    with pytest.raises(ProtocolError):
        polling(clock).receive_payload(body)


def test_payload_and_frame_are_bounded(clock):
    assert polling(clock).receive_payload(b"4" + b"x" * 99) == [Message(b"x" * 99)]
    for receive in (polling(clock).receive_payload, lambda body: websocket(clock).receive_frame(body, False)):
        with pytest.raises(ProtocolError) as caught:
            receive(b"4" + b"x" * 100)
        assert caught.value.code == 1009


def test_frames_are_messages_without_splitting(clock):
    engine = websocket(clock)
    assert engine.receive_frame(b"4hel\x1elo", False) == [Message(b"hel\x1elo")]
    assert engine.receive_frame(b"\x01\x02", True) == [Message(b"\x01\x02", True)]
    engine.send(b"hello")
    engine.send(b"\x01", True)
    assert engine.frames() == [(b"4hello", False), (b"\x01", True)]


@pytest.mark.parametrize("frame", [b"", b"abc", b"7", b"2", b"2probe"])
def test_a_malformed_frame_is_refused(clock, frame):
    with pytest.raises(ProtocolError):
        websocket(clock).receive_frame(frame, False)


@pytest.mark.parametrize("frame", [b"0{}", b"3", b"5", b"6"])
def test_packets_without_a_meaning_are_passed_over(clock, frame):
    assert websocket(clock).receive_frame(frame, False) == []


# Heartbeat


def test_three_rounds_of_ping_and_pong(clock):
    engine = websocket(clock)
    for _ in range(3):
        assert engine.due == pytest.approx(clock.seconds() + 0.3)
        clock.advance(0.3)
        assert engine.heartbeat()
        assert engine.frames() == [(b"2", False)]
        assert engine.due == pytest.approx(clock.seconds() + 0.2)
        clock.advance(0.1)
        assert engine.receive_frame(b"3", False) == [ALIVE]


def test_a_ping_without_an_answer_in_time_is_the_end(clock):
    engine = polling(clock)
    clock.advance(0.3)
    assert engine.heartbeat()
    assert engine.poll() == b"2"
    clock.advance(0.2)
    assert not engine.heartbeat()


@pytest.mark.parametrize(("data", "binary"), [(b"4x", False), (b"x", True), (b"6", False), (b"1", False)])
def test_any_packet_answers_a_ping_once(clock, data, binary):
    engine = websocket(clock)
    assert engine.ping()
    assert engine.receive_frame(data, binary)[0] == ALIVE
    assert ALIVE not in engine.receive_frame(b"3", False)
    assert engine.due == pytest.approx(0.3)


def test_a_late_timer_does_not_shorten_the_answer_by_much(clock):
    engine = websocket(clock)
    clock.advance(0.35)
    engine.heartbeat()
    assert engine.due == pytest.approx(0.5)


def test_after_a_pause_of_the_machine_clients_get_their_time(clock):
    engine = websocket(clock)
    clock.advance(100)
    engine.heartbeat()
    assert engine.due == pytest.approx(100.2)


def test_a_second_ping_waits_for_the_first_answer(clock):
    engine = websocket(clock)
    assert engine.ping()
    assert not engine.ping()
    assert engine.frames() == [(b"2", False)]


# Close


def test_close_is_an_event(clock):
    assert polling(clock).receive_payload(b"1") == [CLOSED]
    assert websocket(clock).receive_frame(b"1", False) == [CLOSED]


def test_the_last_payload_has_what_was_queued(clock):
    engine = polling(clock)
    engine.send(b"bye")
    assert engine.last_payload(b"1") == b"4bye\x1e1"
    assert engine.last_payload(b"6") == b"6"


def test_nothing_is_queued_after_the_end(clock):
    engine = polling(clock)
    engine.close()
    engine.send(b"late")
    assert not engine.ping() or engine.frames() == []
    assert engine.poll() == b""


# Upgrade


def test_upgrade_flushes_the_queue_to_the_websocket(clock):
    engine = polling(clock)
    assert engine.begin_upgrade()
    engine.send(b"one")
    assert engine.receive_probe(b"2probe", False) == [PROBED_EVENT]
    assert engine.poll() == b"4one"
    assert engine.poll() == b"6"
    engine.send(b"two")
    assert engine.polling
    assert engine.receive_probe(b"5", False) == [UPGRADED]
    assert not engine.polling
    assert engine.frames() == [(b"4two", False)]


def test_a_get_waits_until_the_probe(clock):
    engine = polling(clock)
    engine.begin_upgrade()
    assert engine.poll() == b""


def test_only_one_websocket_at_a_time_may_be_moved_to(clock):
    engine = polling(clock)
    assert engine.begin_upgrade()
    assert not engine.begin_upgrade()
    engine.abandon_upgrade()
    assert engine.begin_upgrade()
    engine.receive_probe(b"2probe", False)
    engine.receive_probe(b"5", False)
    assert not engine.begin_upgrade()
    engine.abandon_upgrade()
    assert engine.state is State.WEBSOCKET


@pytest.mark.parametrize("frames", [[b"5"], [b"2"], [b"4x"], [b"2probe", b"2probe"], [b"2probe", b"4x"], [b""]])
def test_a_wrong_probe_is_refused(clock, frames):
    engine = polling(clock)
    engine.begin_upgrade()
    for frame in frames[:-1]:
        assert engine.receive_probe(frame, False) == [PROBED_EVENT]
    with pytest.raises(ProtocolError):
        engine.receive_probe(frames[-1], False)


def test_a_binary_probe_is_refused(clock):
    engine = polling(clock)
    engine.begin_upgrade()
    with pytest.raises(ProtocolError):
        engine.receive_probe(b"2probe", True)


# Anything

PACKETS = st.lists(
    st.one_of(
        st.tuples(st.text(st.characters(exclude_characters="\x1e", exclude_categories=["Cs"])), st.just(False)),
        st.tuples(st.binary(), st.just(True)),
    ),
    min_size=1,
)


@given(PACKETS)
def test_payloads_come_back_as_they_were(packets):
    wanted = [(b"4" + data.encode(), False) if not binary else (data, True) for data, binary in packets]
    assert decode_payload(encode_payload(wanted)) == wanted


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b"1", b"2", b"3", b"4x", b"6", b"b", b"4\x1e4"]))))
def test_no_input_raises_anything_but_malformed(bodies):
    clock = Clock()
    engines = [polling(clock), websocket(clock), polling(clock)]
    engines[2].begin_upgrade()
    for body in bodies:
        clock.advance(0.1)
        for receive in (
            engines[0].receive_payload,
            lambda data: engines[1].receive_frame(data, False),
            lambda data: engines[1].receive_frame(data, True),
            lambda data: engines[2].receive_probe(data, False),
        ):
            with suppress(ProtocolError):
                receive(body)
