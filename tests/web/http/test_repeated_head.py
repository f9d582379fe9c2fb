"""Requests whose header is that of the one before: they are read as llhttp reads them, without it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.access.addresses import Forwarded
from broker.messages import HttpRequest
from broker.web.http.parser import Limits, RequestParser

HOST = b"Host: here\r\n"
POLL = b"GET /events?after=%d HTTP/1.1\r\n" + HOST + b"Accept: application/json\r\n\r\n"
POST = b"POST /events HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\n%b"


class Plain(RequestParser):
    """Leaves every request to llhttp."""

    def _receive_message(self, data: bytes) -> None:
        self.feed(data)


def seen(parser: RequestParser) -> tuple[Any, ...]:
    """Return all that a channel can see of *parser*, but for the ids of its requests."""
    state = (parser.phase, parser.begun, parser.body_bytes, parser.expects, parser.rest, parser.unparsed)
    arrived = [(_said(one.request), one.keep_alive, one.status, one.message, one.upgrade) for one in parser.arrived]
    return (*state, parser.held_bytes(), parser.has_room(), arrived)


def _said(request: HttpRequest | None) -> Any:
    if request is None:
        return None
    head = (request.method, request.path, request.query, request.headers, request.version)
    return (*head, request.body, request.address, request.secure, request.forwarded_host, bool(request.id))


def without_llhttp(parser: RequestParser) -> RequestParser:
    def feed(data: bytes | memoryview) -> None:
        pytest.fail("it was parsed")

    parser.feed = feed  # type: ignore[method-assign]
    return parser


def test_a_repeated_header_is_not_parsed_again() -> None:
    parser = RequestParser(Limits(), "127.0.0.1")
    parser.receive(POLL % 1)
    parser.arrived.clear()
    without_llhttp(parser).receive(POLL % 2)
    request = parser.arrived[0].request
    assert request is not None
    assert (request.method, request.path, request.query) == ("GET", "/events", "after=2")
    assert request.headers == {"host": "here", "accept": "application/json"}
    assert (parser.begun, request.address, parser.arrived[0].keep_alive) == (2, "127.0.0.1", True)


def test_the_body_behind_a_repeated_header_is_its_own() -> None:
    parser = RequestParser(Limits())
    parser.receive(POST % b"first")
    without_llhttp(parser).receive(POST % b"other")
    assert [one.request.body for one in parser.arrived if one.request] == [b"first", b"other"]
    assert parser.body_bytes == 5


def test_requests_with_one_header_share_no_fields() -> None:
    parser = RequestParser(Limits())
    for number in range(3):
        parser.receive(POLL % number)
        request = parser.arrived.pop().request
        assert request is not None
        assert "seen" not in request.headers
        request.headers["seen"] = "yes"


def test_each_request_of_a_proxy_is_looked_at() -> None:
    clients = iter(("10.0.0.1", "10.0.0.2"))
    parser = RequestParser(Limits(), "127.0.0.1", False, lambda headers: Forwarded(next(clients), "there", True))
    parser.receive(POLL % 1)
    without_llhttp(parser).receive(POLL % 2)
    found = [one.request for one in parser.arrived if one.request]
    assert [request.address for request in found] == ["10.0.0.1", "10.0.0.2"]
    assert [(request.secure, request.forwarded_host) for request in found] == [(True, "there")] * 2


def test_nothing_is_kept_when_the_connection_is_over() -> None:
    parser = RequestParser(Limits())
    parser.receive(POLL % 1)
    parser.close()
    parser.receive(POLL % 2)
    assert not parser.arrived


METHODS = [b"GET", b"POST", b"PUT", b"HEAD", b"CONNECT", b"get", b"PROPFIND", b"PRI"]
TARGETS = [
    b"/",
    b"/a?b=c",
    b"/a#b",
    b"/a b",
    b"*",
    b"http://other/x",
    b"//x?y?z",
    b"/%41",
    b"/\xc3\xa9",
    b"/a\t",
    b"x",
    b"/?",
]
VERSIONS = [b"HTTP/1.1"] * 5 + [b"HTTP/1.0", b"HTTP/2.0", b"http/1.1"]
FIELDS = [
    b"Accept: */*",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Content-Length: 0",
    b"Content-Length: 3",
    b"Content-Length: 30",
    b"Transfer-Encoding: chunked",
    b"Upgrade: websocket",
    b"Upgrade: h2c\r\nConnection: Upgrade",
    b"Expect: 100-continue",
    b"Host: twice",
    b"X-Long: " + b"x" * 1000,
    b" folded",
    b"Bad Name: x",
    b"X: \x00",
    b"X: \xff",
]
BODIES = [b"", b"", b"abc", b"abcd", b"3\r\nabc\r\n0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n"]
STARTS = [b"", b"", b"", b"\r\n", b"\n", b"\r", b" "]


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Draw chunks: most are one request, with the same header as the one before; some are damaged, cut or joined."""
    fields = b"".join(field + b"\r\n" for field in draw(st.lists(st.sampled_from(FIELDS), max_size=2)))
    chunks = []
    for _ in range(draw(st.integers(2, 4))):
        line = b" ".join(draw(st.sampled_from(part)) for part in ([b"GET", b"POST", *METHODS], TARGETS, VERSIONS))
        chunk = draw(st.sampled_from(STARTS)) + line + b"\r\n" + HOST + fields + b"\r\n" + draw(st.sampled_from(BODIES))
        if draw(st.integers(0, 4)) == 0:
            place = draw(st.integers(0, len(chunk) - 1))
            chunk = chunk[:place] + draw(st.sampled_from([b"", b"\r", b"\n", b":", b" ", b"a"])) + chunk[place + 1 :]
        if draw(st.integers(0, 4)) == 0:
            place = draw(st.integers(0, len(chunk)))
            chunks += [chunk[:place], chunk[place:]]
        else:
            chunks.append(chunk)
    return chunks


@settings(max_examples=150, deadline=None)
@given(streams())
def test_whatever_comes_is_read_as_llhttp_reads_it(chunks: list[bytes]) -> None:
    limits = Limits(body_bytes=20, head_fields=5)
    ours, theirs = RequestParser(limits), Plain(limits)
    for chunk in chunks:
        ours.receive(chunk)
        theirs.receive(chunk)
        assert seen(ours) == seen(theirs)
    ours.end()
    theirs.end()
    assert seen(ours) == seen(theirs)
