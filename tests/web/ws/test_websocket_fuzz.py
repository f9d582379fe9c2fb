"""The fast path, compiled and not, and Autobahn's own code do the same, whatever comes and however it is cut."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.web.ws.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, WAYS, client_frame, open_link

WORDS = (
    b"echo a",
    b"bye",
    b"drop",
    b"fail",
    b"",
    b"\xc3\xa9" * 70,
    b"\xff",
    b"cut \xe2\x82",
    b"\xed\xa0\x80",
    b"x" * 200,
)
SIZES = (0, 1, 2, 124, 125, 126, 127, 300)

payloads = st.one_of(
    st.sampled_from(WORDS),
    st.text(max_size=140).map(str.encode),
    st.binary(max_size=140),
    st.sampled_from(SIZES).map(lambda size: b"a" * size),
)
masks = st.binary(min_size=4, max_size=4)
usual = st.builds(client_frame, st.sampled_from((TEXT, TEXT, BINARY)), payloads, mask=masks)
control = st.one_of(
    st.builds(client_frame, st.sampled_from((PING, PONG)), st.binary(max_size=126), mask=masks),
    st.builds(
        lambda code, reason: client_frame(CLOSE, struct.pack("!H", code) + reason),
        st.sampled_from((999, 1000, 1001, 1005, 3000, 4999, 5000)),
        st.sampled_from((b"", b"so long", b"\xff")),
    ),
    st.sampled_from((client_frame(CLOSE), client_frame(CLOSE, b"\x03"))),
)
fragment = st.builds(
    client_frame, st.sampled_from((TEXT, BINARY, CONTINUATION, CONTINUATION)), payloads, fin=st.booleans(), mask=masks
)
odd = st.builds(
    client_frame,
    st.integers(0, 15),
    payloads,
    fin=st.booleans(),
    rsv=st.sampled_from((0, 0, 1, 2, 4)),
    masked=st.booleans(),
    mask=masks,
)
longwinded = st.builds(
    lambda opcode, size, wide: client_frame(opcode, b"b" * size, length=struct.pack(wide, size)),
    st.sampled_from((TEXT, BINARY, PONG)),
    st.integers(0, 300),
    st.sampled_from(("!H", "!Q")),
)
LARGE = [client_frame(opcode, b"c" * size) for opcode in (TEXT, BINARY) for size in (65535, 65536)]
streams = st.lists(
    st.one_of(usual, usual, usual, control, fragment, odd, longwinded, st.sampled_from(LARGE)), max_size=8
).map(b"".join)


def outcome(stream: bytes, cuts: list[int], **options: Any) -> dict[str, Any]:
    """Return all that can be seen of a link that gets *stream* in pieces."""
    bench = open_link(**options)
    start = 0
    for cut in [*sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]:
        bench.wire.feed(stream[start:cut])
        start = cut
    seen = {
        "sent": bench.wire.value(),
        "closing": bench.wire.disconnecting,
        "aborted": bench.wire.aborted,
        "counted": (bench.traffic.messages_out, bench.traffic.bytes_out),
    }
    bench.clock.advance(1.0)
    seen["cut off"] = bench.wire.aborted
    bench.wire.lose()
    assert bench.timers() == []
    return seen | {"session": bench.session.log, "ended": bench.ended}


@given(stream=streams, cuts=st.lists(st.integers(0, 1 << 20), max_size=12), limit=st.sampled_from((100, 130, 1 << 20)))
def test_all_ways_do_the_same(stream: bytes, cuts: list[int], limit: int) -> None:
    compiled, fast, plain = (outcome(stream, cuts, max_message_bytes=limit, **way) for way in WAYS.values())
    assert compiled == fast == plain


@given(stream=streams, cuts=st.lists(st.integers(0, 1 << 20), max_size=12))
def test_how_a_stream_is_cut_makes_no_difference(stream: bytes, cuts: list[int]) -> None:
    assert outcome(stream, cuts) == outcome(stream, [])


@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(0, 1 << 20), max_size=12))
def test_noise_does_the_same_all_ways(data: bytes, cuts: list[int]) -> None:
    # The zeros complete whatever has begun: bad UTF-8 is noticed at the end of a frame the short
    # way, and in the middle of it the other.
    stream = data + bytes(65536 + 14)
    cuts = [cut % (len(data) + 1) for cut in cuts]
    compiled, fast, plain = (outcome(stream, cuts, **way) for way in WAYS.values())
    assert compiled == fast == plain
