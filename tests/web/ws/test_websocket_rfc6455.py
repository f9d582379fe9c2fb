"""The behaviour that RFC 6455 asks for, with the fast path on and off, in one piece and byte by byte."""

from __future__ import annotations

import struct
from typing import Any

import attrs
import pytest

from tests.web.ws.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    client_frame,
    closing,
    each_way,
    open_link,
    text,
)

pytestmark = pytest.mark.unmeasured  # others run the same code

EURO = "€".encode()


@attrs.frozen
class Case:
    """What comes, what reaches the session, what is sent, and how it ends.

    ``code`` is what our close frame says; None for no close frame.  ``over`` says
    that the connection ends by that, without an answer from the client.
    """

    stream: bytes
    messages: tuple[tuple[bytes, bool], ...] = ()
    sent: tuple[tuple[int, bytes], ...] = ()
    code: int | None = None
    limit: int = 1 << 20
    over: bool = False


def piece(opcode: int, payload: bytes, fin: bool = False) -> bytes:
    return client_frame(opcode, payload, fin=fin)


HELLO = ((b"Hello", False),)
CASES = {
    # 5.6, data frames
    "text": Case(text("Hello"), HELLO),
    "empty text": Case(text(""), ((b"", False),)),
    "binary": Case(client_frame(BINARY, b"\x00\xff"), ((b"\x00\xff", True),)),
    "empty binary": Case(client_frame(BINARY), ((b"", True),)),
    "non-ASCII text": Case(text("Grüße €𝄞"), (("Grüße €𝄞".encode(), False),)),
    "zero mask": Case(client_frame(TEXT, b"Hello", mask=bytes(4)), HELLO),
    "125 bytes": Case(text("a" * 125), ((b"a" * 125, False),)),
    "126 bytes": Case(text("a" * 126), ((b"a" * 126, False),)),
    "65535 bytes": Case(text("a" * 65535), ((b"a" * 65535, False),)),
    "65536 bytes": Case(client_frame(BINARY, b"a" * 65536), ((b"a" * 65536, True),)),
    "several at once": Case(
        text("1") + client_frame(BINARY, b"2") + text("3"), ((b"1", False), (b"2", True), (b"3", False))
    ),
    # 5.4, fragments
    "fragments": Case(piece(TEXT, b"Hel") + piece(CONTINUATION, b"lo", True), HELLO),
    "many fragments": Case(piece(TEXT, b"H") + piece(CONTINUATION, b"ell") + piece(CONTINUATION, b"o", True), HELLO),
    "empty fragments": Case(
        piece(BINARY, b"") + piece(CONTINUATION, b"") + piece(CONTINUATION, b"", True), ((b"", True),)
    ),
    "fragments, then whole": Case(
        piece(TEXT, b"He") + piece(CONTINUATION, b"llo", True) + text("!"), (*HELLO, (b"!", False))
    ),
    "ping between fragments": Case(
        piece(TEXT, b"Hel") + client_frame(PING, b"?") + piece(CONTINUATION, b"lo", True), HELLO, ((PONG, b"?"),)
    ),
    "pong between fragments": Case(piece(TEXT, b"Hel") + client_frame(PONG) + piece(CONTINUATION, b"lo", True), HELLO),
    "continuation of nothing": Case(piece(CONTINUATION, b"x", True), code=1002),
    "continuation after the end": Case(text("Hello") + piece(CONTINUATION, b"x", True), HELLO, code=1002),
    "a new message among fragments": Case(piece(TEXT, b"Hel") + text("lo"), code=1002),
    # 5.5, control frames
    "ping": Case(client_frame(PING), sent=((PONG, b""),)),
    "ping with data": Case(client_frame(PING, b"\x00\xfe"), sent=((PONG, b"\x00\xfe"),)),
    "ping with 125 bytes": Case(client_frame(PING, b"p" * 125), sent=((PONG, b"p" * 125),)),
    "ping with 126 bytes": Case(client_frame(PING, b"p" * 126), code=1002),
    "ping before text": Case(client_frame(PING, b"1") + text("Hello"), HELLO, ((PONG, b"1"),)),
    "unasked pong": Case(client_frame(PONG, b"!") + text("Hello"), HELLO),
    "pong with 126 bytes": Case(client_frame(PONG, b"p" * 126), code=1002),
    "fragmented ping": Case(client_frame(PING, b"?", fin=False), code=1002),
    "fragmented pong": Case(client_frame(PONG, b"!", fin=False), code=1002),
    "fragmented close": Case(client_frame(CLOSE, b"", fin=False), code=1002, over=True),
    # 5.2, reserved bits and opcodes
    **{f"reserved bit {rsv}": Case(client_frame(TEXT, b"x", rsv=rsv), code=1002) for rsv in (1, 2, 4, 7)},
    **{f"reserved bit {rsv} on a pong": Case(client_frame(PONG, b"", rsv=rsv), code=1002) for rsv in (1, 2, 4)},
    **{f"opcode {op}": Case(text("Hello") + client_frame(op, b"x"), HELLO, code=1002) for op in (3, 7, 11, 15)},
    # 5.2, lengths
    "two bytes for a short length": Case(client_frame(TEXT, b"abc", length=b"\x00\x03"), code=1002),
    "eight bytes for a short length": Case(client_frame(TEXT, b"abc", length=struct.pack("!Q", 3)), code=1002),
    "length with the highest bit": Case(client_frame(TEXT, b"", length=struct.pack("!Q", 1 << 63)), code=1002),
    # 5.1: "The server MUST close the connection upon receiving a frame that is not masked."
    "unmasked text": Case(client_frame(TEXT, b"x", masked=False), code=1002),
    "unmasked ping": Case(client_frame(PING, b"x", masked=False), code=1002),
    "unmasked pong": Case(client_frame(PONG, b"x", masked=False), code=1002),
    # 8.1, UTF-8
    "invalid UTF-8": Case(client_frame(TEXT, b"\xff\xfe"), code=1007),
    "overlong UTF-8": Case(client_frame(TEXT, b"\xc0\xaf"), code=1007),
    "surrogate": Case(client_frame(TEXT, b"\xed\xa0\x80"), code=1007),
    "beyond Unicode": Case(client_frame(TEXT, b"\xf4\x90\x80\x80"), code=1007),
    "UTF-8 that ends too early": Case(client_frame(TEXT, b"abc\xe2\x82"), code=1007),
    "invalid UTF-8 after good text": Case(text("Hello") + client_frame(TEXT, b"\x80"), HELLO, code=1007),
    "character cut by fragments": Case(
        piece(TEXT, EURO[:1]) + piece(CONTINUATION, EURO[1:2]) + piece(CONTINUATION, EURO[2:], True), ((EURO, False),)
    ),
    "character cut and not ended": Case(piece(TEXT, b"a" + EURO[:1]) + piece(CONTINUATION, b"b", True), code=1007),
    "invalid UTF-8 in binary": Case(client_frame(BINARY, b"\xff\xfe"), ((b"\xff\xfe", True),)),
    "nothing counts after a failure": Case(client_frame(TEXT, b"\xff") + text("Hello") + client_frame(PING), code=1007),
    # 10.4, limits
    "as long as allowed": Case(text("a" * 100), ((b"a" * 100, False),), limit=100),
    "one byte too long": Case(text("a" * 101), code=1009, limit=100),
    "too long before it has come": Case(client_frame(BINARY, b"", length=struct.pack("!Q", 1 << 40)), code=1009),
    "too long in fragments": Case(piece(TEXT, b"a" * 60) + piece(CONTINUATION, b"a" * 60, True), code=1009, limit=100),
    "what follows one too long": Case(text("a" * 101) + text("Hello"), code=1009, limit=100),
}


@pytest.mark.parametrize("step", [0, 1, 7], ids=["whole", "bytewise", "in sevens"])
@each_way
@pytest.mark.parametrize("name", CASES)
def test_a_stream_is_answered_as_the_rfc_says(name: str, way: Any, step: int) -> None:
    case = CASES[name]
    bench = open_link(**way, max_message_bytes=case.limit)
    bench.wire.feed(case.stream, step)
    sent = bench.sent
    if case.code is not None:
        opcode, payload = sent.pop()
        assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", case.code))
    assert bench.session.messages == list(case.messages)
    assert sent == list(case.sent)
    assert bench.wire.ended is case.over
    bench.wire.lose()
    assert len(bench.ended) == 1
    assert bench.ended[0][0] == (case.code or 1006)
    assert bench.timers() == []


@pytest.mark.parametrize("step", [0, 1], ids=["whole", "bytewise"])
@each_way
class TestClosing:
    @pytest.mark.parametrize(
        "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999]
    )
    def test_a_close_is_echoed_and_the_connection_ends(self, way: Any, step: int, code: int) -> None:
        bench = open_link(**way)
        bench.wire.feed(closing(code, "tschüß".encode()) + text("too late"), step)
        assert bench.sent == [(CLOSE, struct.pack("!H", code) + "tschüß".encode())]
        assert bench.wire.disconnecting
        assert not bench.wire.aborted
        bench.wire.lose()
        assert bench.session.log == ["opened", ("closed", code, "tschüß")]
        assert bench.ended == [(code, "tschüß")]
        assert bench.timers() == []

    def test_a_close_without_a_code_is_echoed_without_one(self, way: Any, step: int) -> None:
        bench = open_link(**way)
        bench.wire.feed(closing(), step)
        assert bench.sent == [(CLOSE, b"")]
        bench.wire.lose()
        assert bench.ended == [(1005, "")]

    @pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535])
    def test_a_code_that_must_not_be_sent_is_a_protocol_error(self, way: Any, step: int, code: int) -> None:
        bench = open_link(**way)
        bench.wire.feed(closing(code), step)
        assert [(opcode, payload[:2]) for opcode, payload in bench.sent] == [(CLOSE, b"\x03\xea")]

    def test_a_close_of_one_byte_is_a_protocol_error(self, way: Any, step: int) -> None:
        bench = open_link(**way)
        bench.wire.feed(client_frame(CLOSE, b"\x03"), step)
        assert [(opcode, payload[:2]) for opcode, payload in bench.sent] == [(CLOSE, b"\x03\xea")]

    def test_a_reason_that_is_no_utf8_is_bad_payload(self, way: Any, step: int) -> None:
        bench = open_link(**way)
        bench.wire.feed(closing(1000, b"\xff"), step)
        assert [(opcode, payload[:2]) for opcode, payload in bench.sent] == [(CLOSE, b"\x03\xef")]

    def test_the_answer_to_our_close_ends_the_connection(self, way: Any, step: int) -> None:
        bench = open_link(**way)
        bench.link.close(4000, "enough")
        assert bench.sent == [(CLOSE, b"\x0f\xa0enough")]
        bench.wire.feed(text("on its way") + closing(4000), step)
        assert bench.wire.disconnecting
        bench.wire.lose()
        assert bench.session.log == ["opened", ("closed", 4000, "enough")]
        assert bench.timers() == []

    def test_a_client_that_answers_a_failure_is_let_go(self, way: Any, step: int) -> None:
        bench = open_link(**way)
        bench.wire.feed(client_frame(TEXT, b"\xff") + client_frame(3) + closing(1007), step)
        assert bench.wire.disconnecting
        assert [opcode for opcode, _ in bench.sent] == [CLOSE]

    def test_a_client_that_goes_on_after_a_failure_is_cut_off(self, way: Any, step: int) -> None:
        bench = open_link(**way)
        bench.wire.feed(client_frame(TEXT, b"\xff") + text("?") * 100, step)
        assert not bench.wire.aborted
        bench.wire.feed(text("?"), step)
        assert bench.wire.aborted
        bench.wire.lose()
        assert bench.ended[0][0] == 1007

    def test_a_session_may_close_drop_or_fail_in_the_middle_of_a_chunk(self, way: Any, step: int) -> None:
        for word, code, aborted in ((b"bye", 4001, False), (b"drop", 1006, True), (b"fail", 1011, False)):
            bench = open_link(**way)
            bench.wire.feed(text("echo a") + client_frame(BINARY, word) + text("echo b"), step)
            assert bench.session.messages == [(b"echo a", False), (word, True)]
            assert bench.sent[0] == (TEXT, b"a")
            assert bench.wire.aborted is aborted
            bench.wire.lose()
            assert bench.ended[0][0] == code
