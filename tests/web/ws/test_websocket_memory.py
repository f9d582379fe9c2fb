"""What WebSocket links hold is counted, and bounded, and nothing is left of it when they end."""

from __future__ import annotations

import attrs
import pytest

from broker.core.memory import Memory, UnadmittedBytes
from broker.messages import CloseCode
from tests.web.ws.frames import CLOSE, TEXT, client_frame, open_link, server_frames, text

PART = client_frame(TEXT, b"x" * 50_000, fin=False)
REST = client_frame(0, b"y" * 50_000, fin=False)


@pytest.mark.parametrize("data", [PART, client_frame(TEXT, b"x" * 60_000)[:50_008]], ids=["fragment", "part"])
@pytest.mark.parametrize("step", [0, 1000])
def test_a_message_under_way_is_counted_until_it_is_whole(data: bytes, step: int) -> None:
    memory = Memory()
    bench = open_link(memory=memory)
    bench.wire.feed(data, step)
    assert 50_000 <= memory.upload.used <= 50_008
    bench.wire.feed(client_frame(TEXT, b"x" * 60_000)[50_008:] if data is not PART else client_frame(0, b"y"))
    assert len(bench.session.messages) == 1
    assert memory.used == 0
    bench.wire.lose()


def test_a_link_that_ends_in_the_middle_of_a_message_keeps_nothing() -> None:
    memory = Memory()
    bench = open_link(memory=memory)
    bench.wire.feed(PART)
    bench.link.hold(300)
    assert memory.used == 50_300
    bench.wire.lose()
    assert (memory.used, bench.link.message_data, bench.link.data) == (0, None, b"")


def test_many_small_parts_of_a_frame_cost_no_more_than_their_bytes() -> None:
    bench = open_link()
    bench.wire.feed(client_frame(TEXT, b"x" * 100_000)[:-1], 1)
    assert isinstance(bench.link.message_data, bytearray)
    assert len(bench.link.message_data) == 99_999
    bench.wire.lose()


def test_the_link_with_the_largest_message_under_way_is_closed_with_1013() -> None:
    memory = Memory(share=120_000)
    first, second = (open_link(memory=memory) for _ in range(2))
    first.wire.feed(PART + REST)
    second.wire.feed(PART)
    ((opcode, payload),) = first.sent
    assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, CloseCode.TRY_AGAIN_LATER)
    assert (second.sent, memory.used) == ([], 50_000)
    first.wire.feed(REST)
    assert memory.used == 50_000
    for bench in (first, second):
        bench.wire.lose()
    assert memory.used == 0


def test_a_link_that_is_closing_already_is_dropped() -> None:
    bench = open_link(memory=Memory())
    bench.link.shed()
    assert not bench.wire.aborted
    bench.link.shed()
    assert bench.wire.aborted
    bench.wire.lose()


def test_what_is_not_read_on_a_transport_of_another_kind_is_counted() -> None:
    memory = Memory()
    bench = open_link(memory=memory)
    bench.link.pauseProducing()
    bench.link.send(b"x" * 1000)
    assert memory.send_queue.used == 1004
    bench.link.resumeProducing()
    assert memory.used == 0
    bench.link.pauseProducing()
    bench.link.send(b"x" * 1000)
    bench.wire.lose()
    assert memory.used == 0


def test_what_a_session_holds_is_counted_for_its_link() -> None:
    memory = Memory(share=1000)
    first, second = (open_link(memory=memory) for _ in range(2))
    first.link.hold(600)
    first.link.hold(-100)
    assert memory.held.of(first.link) == 500
    second.link.hold(501)
    assert [opcode for opcode, _ in second.sent] == [CLOSE]
    assert server_frames(first.wire.value()) == []
    first.link.hold(-900)
    assert memory.used == 0
    first.wire.feed(text("hello"))
    assert first.session.messages == [(b"hello", False)]
    for bench in (first, second):
        bench.wire.lose()


@attrs.define
class Stranger:
    admitted: bool = False


def test_the_fragments_of_strangers_have_a_bound_of_their_own() -> None:
    memory = Memory()
    memory.unadmitted = UnadmittedBytes(70_000)
    bench = open_link(memory=memory)
    bench.link.handshake.peer = peer = Stranger()
    bench.wire.feed(PART)
    assert memory.unadmitted.used == 50_000
    peer.admitted = True
    bench.wire.feed(REST)
    assert (memory.unadmitted.used, bench.link.open) == (0, True)
    peer.admitted = False
    bench.wire.feed(client_frame(0, b"z"))
    assert (memory.unadmitted.used, bench.link.open, memory.used) == (0, True, 0)
    bench.wire.feed(PART + REST)
    assert (memory.unadmitted.used, bench.link.open) == (0, False)
    bench.wire.lose()
