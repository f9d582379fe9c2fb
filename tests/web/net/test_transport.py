"""one send an iteration, on fake sockets: what the kernel refuses, in which order, and who is told."""

from __future__ import annotations

import errno
import socket
from itertools import count as ticks
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import main
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPullProducer, IPushProducer
from twisted.logger import LogEvent
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer

from broker.core.memory import Memory
from broker.core.slices import slices_of
from broker.web.net import transport as of_transports
from broker.web.net.sockets import hand_over, peer_is_gone, unacknowledged_bytes, writer_for
from broker.web.net.transport import CHECKED_CLOSES, CHECKED_SENDS, FLUSH_BYTES, FrameTransport
from tests.support.logs import failures_of
from tests.web.net.kernel import Machine, Peer, Socket


def test_the_frames_of_a_chunk_leave_in_one_send_at_its_end() -> None:
    machine = Machine()
    transport, sock, peer = machine.connect()
    peer.act = lambda data: [transport.send_frame(b"%d" % n) for n in range(5)]
    sock.incoming = [b"x"]
    transport.doRead()
    assert sock.calls == [b"01234"]
    assert not machine.reactor.writers
    assert machine.reactor.getDelayedCalls() == []


def test_a_chunk_sends_on_every_connection_it_concerns() -> None:
    machine = Machine()
    transport, sock, peer = machine.connect()
    others = [machine.connect() for _ in range(3)]
    peer.act = lambda data: [other.send_frame(data) for other, _, _ in others * 2]
    sock.incoming = [b"x"]
    transport.doRead()
    assert [other_sock.calls for _, other_sock, _ in others] == [[b"xx"]] * 3


def test_a_chunk_among_others_leaves_the_flush_to_whoever_reads_them() -> None:
    machine = Machine()
    transport, sock, peer = machine.connect()
    peer.act = transport.send_frame
    sock.incoming = [b"x", b"y"]
    machine.outbox.busy = True
    transport.doRead()
    transport.doRead()
    assert sock.calls == []
    machine.outbox.flush()
    assert sock.calls == [b"xy"]


def test_frames_from_outside_a_chunk_leave_in_the_next_iteration() -> None:
    machine = Machine()
    transport, sock, _ = machine.connect()
    transport.send_frame(b"a")
    transport.send_frame(b"b")
    assert sock.calls == []
    assert len(machine.reactor.getDelayedCalls()) == 1
    machine.iterate()
    assert sock.calls == [b"ab"]
    assert machine.reactor.getDelayedCalls() == []


def test_frames_leave_even_if_the_handler_of_the_chunk_fails() -> None:
    machine = Machine()
    transport, sock, peer = machine.connect()

    def act(data: bytes) -> None:
        transport.send_frame(b"before")
        raise ValueError(data)

    peer.act = act
    sock.incoming = [b"x", b"y"]
    with pytest.raises(ValueError, match="x"):
        transport.doRead()
    assert sock.calls == [b"before"]
    # The next frame from outside is not lost either.
    transport.send_frame(b"after")
    machine.iterate()
    assert sock.calls == [b"before", b"after"]


def test_frames_sent_because_another_connection_was_lost_leave() -> None:
    machine = Machine()
    transport, _, peer = machine.connect()
    other, other_sock, _ = machine.connect()
    peer.connectionLost = lambda reason: other.send_frame(b"gone")  # type: ignore[assignment, misc]
    transport.connectionLost(Failure(ConnectionDone()))
    machine.iterate()
    assert other_sock.calls == [b"gone"]


def test_frames_that_a_flush_causes_leave_with_it() -> None:
    machine = Machine()
    slow, _, _ = machine.connect(room=0)
    other, other_sock, _ = machine.connect()
    slow.queue_limit = 10
    slow.overflowed = lambda: other.send_frame(b"slow!")
    slow.send_frame(b"a" * 20)
    machine.iterate()
    slow.send_frame(b"b")
    machine.iterate()
    assert other_sock.calls == [b"slow!"]


def test_a_short_send_goes_on_when_there_is_room() -> None:
    machine = Machine()
    transport, sock, _ = machine.connect(room=3)
    transport.send_frame(b"abcde")
    machine.iterate()
    assert sock.sent == b"abc"
    transport.send_frame(b"fgh")
    machine.iterate()
    assert sock.sent == b"abc"
    sock.room = 100
    machine.reactor.writable(transport)
    assert sock.sent == b"abcdefgh"
    assert not machine.reactor.writers
    transport.send_frame(b"i")
    machine.iterate()
    assert sock.sent == b"abcdefghi"


def test_a_full_kernel_refuses_everything_and_takes_it_later() -> None:
    machine = Machine()
    transport, sock, _ = machine.connect(room=0)
    transport.send_frame(b"abc")
    machine.iterate()
    assert sock.sent == b""
    sock.room = 2
    machine.reactor.writable(transport)
    sock.room = 2
    machine.reactor.writable(transport)
    assert sock.sent == b"abc"


def test_an_error_of_the_socket_is_found_by_the_writer() -> None:
    machine = Machine()
    transport, sock, _ = machine.connect()
    sock.error = BrokenPipeError(errno.EPIPE, "broken pipe")
    transport.send_frame(b"abc")
    machine.iterate()
    assert machine.reactor.writable(transport) is main.CONNECTION_LOST


def test_reading_reports_the_end_and_errors_as_twisted_does() -> None:
    machine = Machine()
    transport, sock, peer = machine.connect()
    assert transport.doRead() is None
    sock.incoming = [b""]
    assert transport.doRead() is main.CONNECTION_DONE
    sock.error = ConnectionResetError(errno.ECONNRESET, "reset")
    assert transport.doRead() is main.CONNECTION_LOST
    assert peer.got == []


def test_frames_keep_their_order_with_plain_writes() -> None:
    machine = Machine()
    transport, sock, _ = machine.connect()
    transport.send_frame(b"1")
    transport.write(b"2")
    transport.send_frame(b"3")
    transport.writeSequence([b"4", b"5"])
    machine.iterate()
    transport.write(b"6")
    transport.send_frame(b"7")
    machine.reactor.writable(transport)
    machine.iterate()
    assert sock.sent == b"1234567"


def test_what_was_sent_before_loseconnection_arrives_before_the_end() -> None:
    machine = Machine()
    transport, sock, _ = machine.connect(room=2)
    transport.send_frame(b"abc")
    transport.loseConnection()
    assert machine.reactor.writable(transport) is None
    sock.room = 10
    assert machine.reactor.writable(transport) is main.CONNECTION_DONE
    assert sock.sent == b"abc"
    machine.iterate()
    assert sock.sent == b"abc"


def test_connections_that_are_closed_at_once_end_in_slices() -> None:
    machine = Machine()
    transports = [machine.connect()[0] for _ in range(3 * CHECKED_CLOSES)]
    machine.outbox._slices.now = ticks().__next__  # each slice is over when the time is looked at
    machine.outbox.busy = True
    for transport in transports:
        transport.loseConnection()
    machine.outbox.busy = False
    for done in (1, 2, 3):
        machine.outbox.flush()
        assert [bool(transport.connected) for transport in transports].count(False) == done * CHECKED_CLOSES
        assert machine.reactor.getDelayedCalls()
    machine.reactor.advance(0)
    assert machine.reactor.getDelayedCalls() == []


def test_who_is_answered_is_closed_before_those_that_are_dropped() -> None:
    machine = Machine()
    dropped = [machine.connect()[0] for _ in range(2 * CHECKED_CLOSES)]
    machine.outbox._slices.now = ticks().__next__
    machine.outbox.busy = True
    for transport in dropped:
        transport.loseConnection()
    answered, sock, _ = machine.connect()
    answered.send_frame(b"a")
    answered.loseConnection()
    machine.outbox.busy = False
    machine.outbox.flush()
    assert not answered.connected
    assert sock.sent == b"a"
    assert [bool(transport.connected) for transport in dropped].count(False) == CHECKED_CLOSES


def test_what_is_sent_in_the_chunk_that_closes_arrives() -> None:
    machine = Machine()
    transport, sock, peer = machine.connect()

    def act(data: bytes) -> None:
        transport.send_frame(b"bye")
        transport.loseConnection()

    peer.act = act
    sock.incoming = [b"x"]
    transport.doRead()
    assert sock.sent == b"bye"
    assert [reason.type for reason in peer.lost] == [ConnectionDone]
    assert machine.reactor.readers == machine.reactor.writers == set()


def test_a_limit_of_the_writer_does_not_end_it_too_early() -> None:
    # doWrite sends at most SEND_LIMIT bytes at once: exactly that many must not look like all.
    machine = Machine()
    transport, sock, _ = machine.connect(room=0)
    first = b"a" * FrameTransport.SEND_LIMIT
    transport.send_frame(first)
    machine.iterate()
    transport.send_frame(b"last")
    transport.loseConnection()
    sock.room = 1 << 30
    results = [machine.reactor.writable(transport) for _ in range(2)]
    assert sock.sent == first + b"last"
    assert results == [None, main.CONNECTION_DONE]


def test_an_aborted_connection_sends_nothing_any_more() -> None:
    machine = Machine()
    transport, sock, peer = machine.connect()
    transport.send_frame(b"abc")
    transport.abortConnection()
    transport.send_frame(b"def")
    machine.outbox.flush()
    machine.iterate()
    assert sock.sent == b""
    assert len(peer.lost) == 1


def test_a_connection_may_be_told_of_its_end_twice() -> None:
    machine = Machine()
    transport, _, peer = machine.connect()
    transport.connectionLost(Failure(ConnectionDone()))
    transport.connectionLost(Failure(ConnectionDone()))
    assert len(peer.lost) == 1


def test_a_lost_connection_sends_and_keeps_nothing() -> None:
    machine = Machine()
    transport, sock, _ = machine.connect()
    transport.overflowed = lambda: None
    transport.send_frame(b"abc")
    transport.connectionLost(Failure(ConnectionDone()))
    machine.iterate()
    transport.send_frame(b"def")
    machine.iterate()
    assert sock.sent == b""
    assert transport._tempDataBuffer == []
    assert transport.overflowed is None


def test_half_a_close_waits_for_the_frames_and_then_takes_no_more() -> None:
    machine = Machine()
    transport, sock, peer = machine.connect(room=1)
    directlyProvides(peer, IHalfCloseableProtocol)
    ended: list[bytes] = []
    peer.writeConnectionLost = lambda: ended.append(sock.sent)
    transport.send_frame(b"abc")
    transport.loseWriteConnection()
    machine.iterate()
    assert not sock.shut
    sock.room = 10
    machine.reactor.writable(transport)
    assert sock.shut
    assert ended == [b"abc"]
    transport.send_frame(b"def")
    machine.iterate()
    assert sock.sent == b"abc"


@implementer(IPushProducer)
class Pusher:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


def test_a_producer_is_paused_once_and_resumed_when_all_is_gone() -> None:
    machine = Machine()
    transport, sock, _ = machine.connect(room=0)
    pusher = Pusher()
    transport.registerProducer(pusher, True)
    transport.send_frame(b"a" * 1000)
    machine.iterate()
    assert pusher.told == []
    for _ in range(3):
        transport.send_frame(b"b" * 65536)
        machine.iterate()
    assert pusher.told == ["pause"]
    sock.room = 100_000
    machine.reactor.writable(transport)
    assert pusher.told == ["pause"]
    sock.room = 1 << 30
    while machine.reactor.writers:
        machine.reactor.writable(transport)
    assert pusher.told == ["pause", "resume"]
    transport.connectionLost(Failure(ConnectionDone()))
    assert pusher.told == ["pause", "resume", "stop"]


@pytest.mark.parametrize("room", [0, 10])
def test_a_producer_is_paused_by_the_first_send_that_is_too_short(room: int) -> None:
    machine = Machine()
    transport, sock, _ = machine.connect(room=room)
    pusher = Pusher()
    transport.registerProducer(pusher, True)
    transport.send_frame(b"a" * 1_000_000)
    assert pusher.told == ["pause"]
    sock.room = 1 << 30
    while machine.reactor.writers:
        machine.reactor.writable(transport)
    assert pusher.told == ["pause", "resume"]


def test_a_producer_that_the_kernel_keeps_up_with_is_not_paused() -> None:
    machine = Machine()
    transport, _, _ = machine.connect()
    pusher = Pusher()
    transport.registerProducer(pusher, True)
    transport.send_frame(b"a" * 1_000_000)
    machine.iterate()
    assert pusher.told == []


def test_a_pull_producer_is_asked_whenever_all_is_gone() -> None:
    machine = Machine()
    transport, sock, _ = machine.connect()

    @implementer(IPullProducer)
    class Puller:
        left = 3

        def resumeProducing(self) -> None:
            if self.left:
                self.left -= 1
                transport.write(b"%d" % self.left)
            else:
                transport.unregisterProducer()

        def stopProducing(self) -> None: ...

    transport.registerProducer(Puller(), False)
    while machine.reactor.writers:
        machine.reactor.writable(transport)
    assert sock.sent == b"210"


def test_too_much_from_one_handler_is_sent_before_its_end() -> None:
    machine = Machine()
    transport, sock, _ = machine.connect(room=0)
    pusher = Pusher()
    transport.registerProducer(pusher, True)
    for _ in range(10):
        transport.send_frame(b"a" * (FLUSH_BYTES // 4))
    assert pusher.told == ["pause"]
    sock.room = 1 << 30
    while machine.reactor.writers:
        machine.reactor.writable(transport)
    assert len(sock.sent) == 10 * (FLUSH_BYTES // 4)


class TestOverflow:
    def test_it_is_told_once_when_more_than_the_limit_waits(self) -> None:
        machine = Machine()
        transport, _, _ = machine.connect(room=0)
        told: list[int] = []
        transport.queue_limit = 100
        transport.overflowed = lambda: told.append(transport._tempDataLen)
        for count in range(1, 30):
            transport.send_frame(b"0123456789")
            machine.iterate()
            assert len(told) == (count > 11)

    def test_one_frame_of_any_size_is_no_overflow(self) -> None:
        machine = Machine()
        transport, _, _ = machine.connect(room=5)
        told: list[str] = []
        transport.queue_limit = 100
        transport.overflowed = lambda: told.append("over")
        transport.send_frame(b"a" * 10_000)
        machine.iterate()
        assert told == []
        transport.send_frame(b"b")
        machine.iterate()
        assert told == ["over"]

    def test_a_reader_that_keeps_up_may_get_any_amount(self) -> None:
        machine = Machine()
        transport, sock, _ = machine.connect(room=50)
        transport.queue_limit = 100
        transport.overflowed = lambda: pytest.fail("overflowed")
        for _ in range(1000):
            transport.send_frame(b"a" * 60)
            machine.iterate()
            sock.room = 60
            machine.reactor.writable(transport)
        assert len(sock.sent) == 60_000

    def test_a_failing_handler_costs_its_own_connection_only(self) -> None:
        machine = Machine()
        bad, _, _ = machine.connect(room=0)
        bad.queue_limit = 0

        def fail() -> None:
            raise RuntimeError("provoked")

        bad.overflowed = fail
        bad.send_frame(b"a")
        machine.iterate()
        good, good_sock, _ = machine.connect()
        bad.send_frame(b"b")
        good.send_frame(b"c")
        machine.iterate()
        assert good_sock.sent == b"c"
        assert bad._aborting

    def test_a_connection_that_another_one_aborts_in_the_same_flush_sends_nothing(self) -> None:
        machine = Machine()
        first, _, _ = machine.connect(room=0)
        second, second_sock, _ = machine.connect()
        first.queue_limit = 0
        first.overflowed = second.abortConnection
        first.send_frame(b"a")
        machine.iterate()
        first.send_frame(b"b")
        second.send_frame(b"c")
        machine.iterate()
        assert second_sock.sent == b""


acts = st.lists(
    st.one_of(
        st.tuples(st.just("frame"), st.binary(max_size=9)),
        st.tuples(st.just("write"), st.binary(max_size=9)),
        st.tuples(st.just("big"), st.integers(1, 2 * FLUSH_BYTES)),
        st.tuples(st.just("room"), st.sampled_from((0, 1, 7, 1000, 1 << 20))),
        st.tuples(st.just("iterate"), st.none()),
        st.tuples(st.just("flush"), st.none()),
        st.tuples(st.just("writable"), st.none()),
    ),
    max_size=40,
)


@given(acts=acts)
def test_every_byte_arrives_once_and_in_order(acts: list[tuple[str, Any]]) -> None:
    machine = Machine()
    transport, sock, _ = machine.connect(room=20)
    expected = b""
    for act, value in acts:
        if act == "frame":
            transport.send_frame(value)
            expected += value
        elif act == "write":
            transport.write(value)
            expected += value
        elif act == "big":
            transport.send_frame(b"x" * value)
            expected += b"x" * value
        elif act == "room":
            sock.room = value
        elif act == "iterate":
            machine.iterate()
        elif act == "flush":
            machine.outbox.flush()
        else:
            machine.reactor.writable(transport)
        assert expected.startswith(sock.sent)
    transport.loseConnection()
    sock.room = 1 << 40
    result = None
    while result is None:
        result = machine.reactor.writable(transport)
    assert result is main.CONNECTION_DONE
    assert sock.sent == expected


def test_the_writer_of_other_transports_is_their_write() -> None:
    class Other:
        def write(self, data: bytes) -> None: ...

    machine = Machine()
    transport, _, _ = machine.connect()
    other = Other()
    assert writer_for(transport) == transport.send_frame
    assert writer_for(other) == other.write


class Below:
    """A transport of whose buffer some was sent, on a file that has no queue of its own."""

    dataBuffer = b"0123456789"
    offset = 4
    _tempDataLen = 100

    def __init__(self, file: Any) -> None:
        self.socket = file


class Tls:
    wrappedProtocol = None

    def __init__(self, transport: Any) -> None:
        self.transport = transport


def test_unacknowledged_bytes_are_counted_below_tls_and_where_the_kernel_does_not_tell() -> None:
    with Path(__file__).open("rb") as file:
        assert unacknowledged_bytes(Below(file)) == 106
        assert unacknowledged_bytes(Tls(Below(file))) == 106
    assert unacknowledged_bytes(object()) == 0


def test_bytes_that_the_peer_has_not_read_are_unsent() -> None:
    here, there = socket.socketpair()
    with here, there:
        assert unacknowledged_bytes(SimpleNamespace(socket=here)) == 0
        here.send(b"x" * 1000)
        assert unacknowledged_bytes(SimpleNamespace(socket=here)) >= 1000
        there.recv(1000)
        assert unacknowledged_bytes(SimpleNamespace(socket=here)) == 0


def test_a_peer_is_gone_when_it_has_closed_and_not_when_it_has_shut_down_its_side() -> None:
    here, there = socket.socketpair()
    with here:
        there.shutdown(socket.SHUT_WR)
        assert not peer_is_gone(SimpleNamespace(socket=here))
        there.close()
        assert peer_is_gone(SimpleNamespace(socket=here))


def test_a_connection_is_handed_over_below_tls_and_without() -> None:
    class Tls:
        wrappedProtocol: Any = None

    machine = Machine()
    transport, sock, first = machine.connect()
    second, tls = Peer(), Tls()
    hand_over(transport, second)
    sock.incoming = [b"x"]
    transport.doRead()
    assert (first.got, second.got) == ([], [b"x"])
    hand_over(tls, second)
    assert tls.wrappedProtocol is second


# What is counted of what the kernel does not take


def test_what_a_client_does_not_read_is_counted_until_it_does() -> None:
    machine = Machine()
    account = machine.outbox.unsent = Memory().send_queue
    transport, sock, _ = machine.connect(room=1000)
    transport.send_frame(b"a" * 1000)
    machine.iterate()
    assert account.of(transport) == 0
    transport.send_frame(b"b" * 300)
    machine.iterate()
    transport.send_frame(b"c" * 200)
    machine.iterate()
    assert (account.of(transport), transport.address) == (500, "192.0.2.1")
    sock.room = 10_000
    machine.reactor.writable(transport)
    machine.reactor.writable(transport)
    assert (account.used, len(account)) == (0, 0)


@pytest.mark.parametrize("end", ["connectionLost", "abortConnection"])
def test_a_connection_that_ends_keeps_nothing(end: str) -> None:
    machine = Machine()
    account = machine.outbox.unsent = Memory().send_queue
    transport, _, _ = machine.connect(room=10)
    transport.send_frame(b"a" * 100)
    machine.iterate()
    transport.send_frame(b"b" * 100)
    machine.iterate()
    assert account.used == 200
    if end == "abortConnection":
        transport.abortConnection()
    else:
        transport.connectionLost(Failure(ConnectionDone()))
    assert (account.used, transport.dataBuffer, transport._tempDataBuffer) == (0, b"", [])
    machine.iterate()


def test_the_largest_queue_of_an_address_is_dropped_at_once() -> None:
    machine = Machine()
    account = machine.outbox.unsent = Memory(share=150_000).send_queue
    (first, _, _), (second, _, _) = (machine.connect(room=10) for _ in range(2))
    first.send_frame(b"a" * 100_000)
    second.send_frame(b"b" * 80_000)
    assert (account.of(first), account.of(second), first.dataBuffer) == (0, 80_000, b"")
    machine.iterate()
    assert (first.connected, second.connected) == (0, 1)


def test_frames_can_be_dropped_but_for_the_one_that_is_under_way() -> None:
    machine = Machine()
    transport, sock, _ = machine.connect(room=10)
    transport.send_frame(b"a" * 100)
    machine.iterate()
    transport.send_frame(b"b" * 100)
    machine.iterate()
    assert transport.drop_frames() == 90
    transport.send_frame(b"c")
    sock.room = 1000
    machine.reactor.writable(transport)
    machine.reactor.writable(transport)
    assert sock.sent == b"a" * 100 + b"c"


def test_no_more_is_sent_in_one_iteration_than_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_transports, "MAX_FLUSHED", 2 * FLUSH_BYTES)
    machine = Machine()
    slices_of(machine.reactor).end = -1.0
    ends = [machine.connect() for _ in range(3)]
    for transport, _, _ in ends:
        transport.send_frame(b"x" * (FLUSH_BYTES + 1))
    machine.outbox.flush()
    assert [len(sock.sent) for _, sock, _ in ends] == [FLUSH_BYTES + 1, FLUSH_BYTES + 1, 0]
    ends[2][0].send_frame(b"")
    machine.reactor.pump([0, 0])
    assert [len(sock.sent) for _, sock, _ in ends] == [FLUSH_BYTES + 1] * 3
    assert not machine.reactor.getDelayedCalls()


def late_machine(connections: int) -> tuple[Machine, list[tuple[FrameTransport, Socket, Peer]]]:
    """Return a machine whose time is over, in the middle of an iteration."""
    machine = Machine()
    machine.outbox.busy = True
    slices_of(machine.reactor).end = -1.0
    return machine, [machine.connect() for _ in range(connections)]


def test_long_frames_for_many_wait_when_the_time_is_over() -> None:
    machine, ends = late_machine(3)
    for data in (b"x" * (FLUSH_BYTES + 1), b"y" * (FLUSH_BYTES + 2)):
        for transport, _, _ in ends:
            transport.send_frame(data)
    assert [sock.sent for _, sock, _ in ends] == [b"", b"", b""]
    machine.outbox.flush()
    assert [len(sock.sent) for _, sock, _ in ends] == [2 * FLUSH_BYTES + 3] * 3


def test_of_different_long_frames_few_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_transports, "MAX_KEPT", 2 * FLUSH_BYTES + 2)
    machine, ends = late_machine(3)
    for _ in range(2):  # as many again wait once these are sent
        for transport, sock, _ in ends:
            sock.calls.clear()
            transport.send_frame(bytes([0]) * (FLUSH_BYTES + 1))
        assert [len(sock.sent) for _, sock, _ in ends] == [0, 0, FLUSH_BYTES + 1]
        machine.outbox.flush()
        assert [len(sock.sent) for _, sock, _ in ends] == [FLUSH_BYTES + 1] * 3


def test_who_is_sent_much_that_is_short_sees_that_it_is_too_much() -> None:
    _, [(transport, sock, _)] = late_machine(1)
    for _ in range(3):
        transport.send_frame(b"x" * (FLUSH_BYTES // 2))
    assert len(sock.sent) == 3 * (FLUSH_BYTES // 2)


def test_the_end_of_what_is_sent_comes_with_it() -> None:
    machine = Machine()
    transport, sock, peer = machine.connect()
    transport.send_frame(b"abc")
    transport.loseWriteConnection()
    machine.outbox.flush()
    assert (sock.sent, sock.shut, peer.lost) == (b"abc", True, [])


def test_a_short_frame_does_not_wait_for_the_long_ones_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_transports, "MAX_FLUSHED", 5)
    machine = Machine()
    ends = [machine.connect() for _ in range(3)]
    machine.outbox.busy = True
    slices_of(machine.reactor).end = -1.0
    for transport, _, _ in ends:
        transport.send_frame(b"x" * (FLUSH_BYTES + 1))
    machine.outbox.flush()
    short, sock, _ = machine.connect()
    short.send_frame(b"short")
    machine.outbox.flush()
    assert sock.sent == b"short"
    assert [len(other.sent) > 0 for _, other, _ in ends] == [True, True, False]
    machine.iterate()
    assert len(ends[2][1].sent) == FLUSH_BYTES + 1
    assert not machine.reactor.getDelayedCalls()


def test_a_connection_that_fails_at_its_end_keeps_no_other_from_its_own(logged: list[LogEvent]) -> None:
    machine = Machine()
    ends = [machine.connect() for _ in range(2)]

    def fail(reason: Any) -> None:
        raise ZeroDivisionError

    ends[0][2].connectionLost = fail  # type: ignore[method-assign, assignment]
    for transport, _, _ in ends:
        transport.send_frame(b"bye")
        transport.loseConnection()
    machine.iterate()
    assert [len(peer.lost) for _, _, peer in ends] == [0, 1]
    assert [type(failure) for failure in failures_of(logged)] == [ZeroDivisionError]


def test_half_a_close_is_told_once() -> None:
    machine = Machine()
    transport, _, peer = machine.connect()
    directlyProvides(peer, IHalfCloseableProtocol)
    ended: list[str] = []
    peer.writeConnectionLost = lambda: ended.append("half")
    transport.loseWriteConnection()
    machine.reactor.writable(transport)
    machine.iterate()
    assert ended == ["half"]
    transport.loseConnection()
    machine.iterate()
    assert len(peer.lost) == 1


def test_very_many_are_flushed_in_slices_in_their_order_and_who_comes_meanwhile_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("broker.web.net.transport.FEW_SENDS", CHECKED_SENDS)
    machine = Machine()
    times = iter(range(1000))
    machine.outbox._slices.now = lambda: float(next(times))  # each look at the time takes longer than a slice
    many = [machine.connect() for _ in range(4 * CHECKED_SENDS)]
    for transport, _, _ in many:
        transport.send_frame(b"a")
    machine.outbox.flush()
    flushed = [bool(sock.calls) for _, sock, _ in many]
    assert flushed == [True] * 3 * CHECKED_SENDS + [False] * CHECKED_SENDS
    other, other_sock, _ = machine.connect()
    other.send_frame(b"b")
    many[-1][0].send_frame(b"b")
    machine.outbox.flush()
    assert other_sock.calls == [b"b"]
    machine.iterate()
    assert [sock.calls for _, sock, _ in many[:-1]] == [[b"a"]] * (4 * CHECKED_SENDS - 1)
    assert many[-1][1].calls == [b"ab"]
    assert machine.reactor.getDelayedCalls() == []


def test_who_is_late_and_closes_gets_all_before_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("broker.web.net.transport.FEW_SENDS", CHECKED_SENDS)
    machine = Machine()
    times = iter(range(1000))
    machine.outbox._slices.now = lambda: float(next(times))
    many = [machine.connect() for _ in range(4 * CHECKED_SENDS)]
    for transport, _, _ in many:
        transport.send_frame(b"a")
        transport.loseConnection()
    machine.iterate()
    for transport in list(machine.reactor.writers):
        reason = machine.reactor.writable(transport)
        transport.connectionLost(Failure(reason))
    assert all(sock.calls == [b"a"] and not transport.connected for transport, sock, _ in many)
