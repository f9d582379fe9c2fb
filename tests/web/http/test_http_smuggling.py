"""What two readers of one byte stream could understand differently is refused.

Each case is one request, or the beginning of one, followed by bytes that would
be a second request for a reader that was fooled.
"""

import pytest

from broker.web.http.parser import Limits, Phase, RequestParser

pytestmark = pytest.mark.unmeasured  # others run the same code

HOST = b"Host: a\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


def parse(stream: bytes, size: int = 1 << 20) -> RequestParser:
    parser = RequestParser(Limits(head_bytes=1000, head_fields=20, body_bytes=100))
    for start in range(0, len(stream), size):
        parser.feed(stream[start : start + size])
    return parser


def statuses(stream: bytes, size: int = 1 << 20) -> list[int]:
    return [arrival.status for arrival in parse(stream, size).arrived]


def post(*lines: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\n" + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def get(*lines: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


REFUSED = {
    # Two lengths.
    "equal lengths": (400, post(b"Content-Length: 5", b"Content-Length: 5") + b"hello"),
    "different lengths": (400, post(b"Content-Length: 5", b"Content-Length: 6") + b"hello"),
    "a list of lengths": (400, post(b"Content-Length: 5, 5") + b"hello"),
    "length before coding": (400, post(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n"),
    "coding before length": (400, post(b"Transfer-Encoding: chunked", b"Content-Length: 5") + b"0\r\n\r\n"),
    "length in the trailer": (400, CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n"),
    # Odd lengths.
    "length with a sign": (400, post(b"Content-Length: +5") + b"hello"),
    "negative length": (400, post(b"Content-Length: -5") + b"hello"),
    "hexadecimal length": (400, post(b"Content-Length: 0x5") + b"hello"),
    "empty length": (400, post(b"Content-Length:") + b"hello"),
    "length in two words": (400, post(b"Content-Length: 5 5") + b"hello"),
    "length with endless zeros": (400, post(b"Content-Length: " + b"0" * 200 + b"5") + b"hello"),
    "length beyond 64 bits": (400, post(b"Content-Length: 18446744073709551621") + b"hello"),
    # Odd transfer codings.
    "two codings": (400, post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + b"0\r\n\r\n"),
    "chunked is not last": (400, post(b"Transfer-Encoding: chunked, gzip") + b"0\r\n\r\n"),
    "chunked behind another": (501, post(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n"),
    "chunked behind a comma": (501, post(b"Transfer-Encoding: ,chunked") + b"0\r\n\r\n"),
    "unknown coding": (501, post(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n"),
    "identity": (501, post(b"Transfer-Encoding: identity") + b"0\r\n\r\n"),
    "empty coding": (400, post(b"Transfer-Encoding:") + b"0\r\n\r\n"),
    "vertical tab before the coding": (400, post(b"Transfer-Encoding: \x0bchunked") + b"0\r\n\r\n"),
    "coding in HTTP/1.0": (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    # Lines that end oddly.
    "blank before the colon": (400, post(b"Transfer-Encoding : chunked") + b"0\r\n\r\n"),
    "blank before the name": (400, b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    "folded line": (400, get(b"Host: a", b"X: a", b" b")),
    "folded coding": (400, post(b"Transfer-Encoding:", b" chunked") + b"0\r\n\r\n"),
    "bare line feeds": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "bare line feed in the header": (400, get(b"Host: a\nX: y")),
    "bare line feed at its end": (400, b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    "bare carriage return": (400, get(b"Host: a\rX: y")),
    "carriage return at its end": (400, b"GET / HTTP/1.1\r\nHost: a\r\n\rGET"),
    # Characters.
    "NUL in a value": (400, get(b"Host: a", b"X: a\0b")),
    "NUL in a name": (400, get(b"Host: a", b"X\0: a")),
    "control character in a value": (400, get(b"Host: a", b"X: a\x01b")),
    "line without a colon": (400, get(b"Host: a", b"X a")),
    "empty name": (400, get(b"Host: a", b": a")),
    # Chunks.
    "line feed behind the size": (400, CHUNKED + b"5\nhello\r\n0\r\n\r\n"),
    "line feed behind the data": (400, CHUNKED + b"5\r\nhello\n0\r\n\r\n"),
    "data longer than the size": (400, CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n"),
    "prefix before the size": (400, CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n"),
    "negative size": (400, CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n"),
    "blank behind the size": (400, CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n"),
    "blank before the size": (400, CHUNKED + b" 5\r\nhello\r\n0\r\n\r\n"),
    "size beyond 64 bits": (400, CHUNKED + b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    "line feed in an extension": (400, CHUNKED + b"5;a\nb\r\nhello\r\n0\r\n\r\n"),
    "carriage return in an extension": (400, CHUNKED + b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    "line feed at the end": (400, CHUNKED + b"0\r\n\n"),
    "odd trailer": (400, CHUNKED + b"0\r\nX y\r\n\r\n"),
    # Whom it is for.
    "no host": (400, get(b"X: y")),
    "two hosts": (400, get(b"Host: a", b"Host: b")),
    "the same host twice": (400, get(b"Host: a", b"host: a")),
    "host with a path": (400, get(b"Host: a/b")),
    "host with a user": (400, get(b"Host: b@a")),
    "two hosts in one": (400, get(b"Host: a, b")),
    "target with a user": (400, b"GET http://b@a/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    "two content types": (400, get(b"Host: a", b"Content-Type: a/b", b"Content-Type: c/d")),
    "two authorizations": (400, get(b"Host: a", b"Authorization: a", b"Authorization: b")),
    # The request line.
    "unknown method": (400, b"FOO / HTTP/1.1\r\n" + HOST + b"\r\n"),
    "method in small letters": (400, b"get / HTTP/1.1\r\n" + HOST + b"\r\n"),
    "tab behind the method": (400, b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    "blank behind the version": (400, b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n"),
    "target without a slash": (400, b"GET x HTTP/1.1\r\n" + HOST + b"\r\n"),
    "target of another scheme": (400, b"GET ftp://a/ HTTP/1.1\r\n" + HOST + b"\r\n"),
    "fragment": (400, b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n"),
    "NUL in the target": (400, b"GET /\0 HTTP/1.1\r\n" + HOST + b"\r\n"),
    "raw bytes in the target": (400, b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n"),
    "no version": (505, b"GET /\r\n\r\n"),
    "version 0.9": (505, b"GET / HTTP/0.9\r\n" + HOST + b"\r\n"),
    "version 1.2": (400, b"GET / HTTP/1.2\r\n" + HOST + b"\r\n"),
    "version 2.0": (505, b"GET / HTTP/2.0\r\n" + HOST + b"\r\n"),
    "the preface of HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "version in small letters": (400, b"GET / http/1.1\r\n" + HOST + b"\r\n"),
    "proxying": (501, b"CONNECT a:80 HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a TLS hello": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    # Sizes.
    "too many fields": (431, get(b"Host: a", *(b"X-%d: y" % n for n in range(20)))),
    "one field too many times": (431, get(b"Host: a", *[b"X: y"] * 20)),
    "length over the limit": (413, post(b"Content-Length: 101")),
    "chunks over the limit": (413, CHUNKED + b"40\r\n" + b"x" * 64 + b"\r\n40\r\n" + b"x" * 64),
    "unknown expectation": (417, post(b"Content-Length: 5", b"Expect: a-miracle") + b"hello"),
}


@pytest.mark.parametrize("size", [1 << 20, 7, 1], ids=["whole", "in sevens", "byte by byte"])
@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_and_nothing_after_it_is_read(case: str, size: int) -> None:
    status, stream = REFUSED[case]
    assert statuses(stream + HIDDEN, size) == [status]


@pytest.mark.parametrize("size", [1 << 20, 7, 1], ids=["whole", "in sevens", "byte by byte"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_came_before_it_is_answered_first(case: str, size: int) -> None:
    status, stream = REFUSED[case]
    assert statuses(HIDDEN + stream + HIDDEN, size) == [0, status]


TAKEN = {
    "a length": (post(b"Content-Length: 5") + b"hello", b"hello"),
    "blanks around a length": (post(b"Content-Length: \t5 \t") + b"hello", b"hello"),
    "zeros before a length": (post(b"Content-Length: 005") + b"hello", b"hello"),
    "chunks": (CHUNKED + b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", b"hello"),
    "a coding in mixed letters": (post(b"Transfer-Encoding: ChUnKed") + b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "chunk extensions": (CHUNKED + b'5;a=b;c="d"\r\nhello\r\n0\r\n\r\n', b"hello"),
    "a trailer": (CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nHost: evil\r\n\r\n", b"hello"),
    "a body of GET": (get(b"Host: a", b"Content-Length: 5") + b"hello", b"hello"),
    "empty lines before a request": (b"\r\n\r\n" + get(b"Host: a"), b""),
    "an upgrade to HTTP/2 with a body": (
        post(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"Content-Length: 5") + b"hello",
        b"hello",
    ),
    "an upgrade to HTTP/2 with chunks": (
        post(b"Connection: Upgrade", b"Upgrade: h2c", b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
        b"hello",
    ),
    "an upgrade of a POST": (
        post(b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 5") + b"hello",
        b"hello",
    ),
    "an upgrade with a body": (
        get(b"Host: a", b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 5") + b"hello",
        b"hello",
    ),
    "Upgrade without Connection": (get(b"Host: a", b"Upgrade: websocket"), b""),
}


@pytest.mark.parametrize("size", [1 << 20, 7, 1], ids=["whole", "in sevens", "byte by byte"])
@pytest.mark.parametrize("case", TAKEN)
def test_it_is_read_and_so_is_what_comes_after_it(case: str, size: int) -> None:
    stream, body = TAKEN[case]
    first, second = (arrival.request for arrival in parse(stream + HIDDEN, size).arrived)
    assert first is not None
    assert second is not None
    assert (first.body, first.headers["host"]) == (body, "a")
    assert (second.path, second.body) == ("/hidden", b"")


@pytest.mark.parametrize("line", [b"Connection: close", b"Connection: x, Close"])
def test_nothing_is_read_behind_a_request_that_closes(line: bytes) -> None:
    parser = parse(get(b"Host: a", line) + HIDDEN)
    assert [(arrival.status, arrival.keep_alive) for arrival in parser.arrived] == [(0, False)]
    assert parser.phase is Phase.CLOSED


def test_an_old_client_is_answered_once() -> None:
    parser = parse(b"GET /old HTTP/1.0\r\n\r\n" + HIDDEN)
    assert [(arrival.status, arrival.keep_alive) for arrival in parser.arrived] == [(0, False)]


def test_an_old_client_may_ask_to_go_on() -> None:
    assert statuses(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + HIDDEN) == [0, 0]


def test_many_upgrades_to_http_2_in_one_chunk_are_plain_requests() -> None:
    stream = get(b"Host: a", b"Connection: Upgrade", b"Upgrade: h2c") * 500
    parser = parse(stream)
    assert [arrival.status for arrival in parser.arrived] == [0] * 500
    assert parser.begun == 500


@pytest.mark.parametrize("size", [1 << 20, 7, 1], ids=["whole", "in sevens", "byte by byte"])
def test_bytes_behind_a_websocket_handshake_are_left_alone(size: int) -> None:
    stream = get(b"Host: a", b"Connection: keep-alive, Upgrade", b"Upgrade: websocket", b"Content-Length: 0")
    parser = parse(HIDDEN + stream + HIDDEN, size)
    assert [(arrival.status, arrival.upgrade) for arrival in parser.arrived] == [(0, False), (0, True)]
    assert parser.rest == HIDDEN


def test_the_authority_of_an_absolute_target_is_the_host() -> None:
    request = parse(b"GET http://b:80?x=/y HTTP/1.1\r\n" + HOST + b"\r\n").arrived[0].request
    assert request is not None
    assert (request.path, request.query, request.headers["host"]) == ("/", "x=/y", "b:80")


@pytest.mark.parametrize(
    "endless",
    [
        b"GET /" + b"x" * 40000,
        b"GET / HTTP/1.1\r\nX: " + b"x" * 40000,
        b"GET / HTTP/1.1\r\n" + b"x" * 40000,
        CHUNKED + b"5;" + b"x" * 40000,
        CHUNKED + b"0\r\nX: " + b"x" * 40000,
        CHUNKED + b"0\r\n" + b"X: y\r\n" * 10000,
    ],
    ids=["target", "value", "name", "chunk extension", "trailer value", "trailer"],
)
def test_an_endless_line_is_cut_off(endless: bytes) -> None:
    parser = RequestParser(Limits(head_bytes=1000))
    fed = 0
    for start in range(0, len(endless), 500):
        if parser.phase is Phase.CLOSED:
            break
        parser.feed(endless[start : start + 500])
        fed += 500
    assert [arrival.status for arrival in parser.arrived] == [431]
    assert fed <= 2500
