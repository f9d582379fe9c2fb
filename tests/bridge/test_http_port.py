"""The HTTP API at the public port: what that refuses is said in its words, and credentials are not told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_twisted

from tests.support.eventually import eventually
from tests.support.logs import lines_of, logging
from tests.support.public_port import PublicPort, RawClient, request

APP = "https://app.example"
SECRET = "a secret that is long enough"
BEARER = f"Authorization: Bearer {SECRET}"
STREAM = "Accept: text/event-stream"


@pytest_twisted.async_yield_fixture
async def port() -> AsyncIterator[PublicPort]:
    port = await PublicPort.open(api_secret=SECRET, allowed_origins=(APP,), max_message_bytes=1000)
    yield port
    await port.close()


async def answer(client: RawClient) -> tuple[int, dict[str, str], bytes]:
    """Return status, header fields and body of the one answer, whose length is known."""
    head = await client.head()
    fields = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:])
    start = len(head) + 2
    await client.until(lambda: len(client.data) >= start + int(fields.get("content-length", 0)))
    return int(head[9:12]), fields, client.data[start:]


REFUSED = {
    "too long a body": (request("/v1/topics/a", BEARER, "Content-Length: 999999", method="POST"), 413, "TOO_LARGE"),
    "too long a field": (request("/v1/keys/a", "X: " + "y" * 40000), 431, "TOO_LARGE"),
    "too many fields": (request("/v1/keys/a", *["X: y"] * 200), 431, "TOO_LARGE"),
    "too long a path": (request("/v1/keys/" + "a" * 40000), 431, "TOO_LARGE"),
    "another coding": (request("/v1/topics/a", "Transfer-Encoding: gzip", method="POST"), 501, "NOT_IMPLEMENTED"),
    "another expectation": (
        request("/v1/topics/a", "Expect: x", "Content-Length: 1", method="POST"),
        417,
        "EXPECTATION_FAILED",
    ),
    "a repeated key": (request("/v1/topics/a", *["Idempotency-Key: k"] * 2, method="POST"), 400, "INVALID"),
    "a repeated id": (request("/v1/topics/a", STREAM, *["Last-Event-ID: 1"] * 2), 400, "INVALID"),
    "no credential": (request("/v1/keys/a"), 401, "UNAUTHENTICATED"),
    "a wrong credential": (request("/v1/keys/a", "Authorization: Bearer x"), 401, "UNAUTHENTICATED"),
    "a wrong credential of a stream": (request("/v1/topics/a?token=x", STREAM), 401, "UNAUTHENTICATED"),
    "another scheme": (request("/v1/keys/a", "Authorization: Basic eDp5"), 401, "UNAUTHENTICATED"),
    "another page": (request("/v1/keys/a", "Origin: https://evil.example"), 403, "DENIED"),
    "another method": (request("/v1/keys/a", method="POST"), 405, "METHOD_NOT_ALLOWED"),
    "nothing there": (request("/v1/nothing", BEARER), 404, "NOT_FOUND"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest_twisted.ensureDeferred
async def test_every_refusal_is_a_problem(port: PublicPort, name: str) -> None:
    sent, status, code = REFUSED[name]
    seen, fields, body = await answer(await port.connect(sent))
    said = json.loads(body)
    assert (seen, fields["content-type"]) == (status, "application/problem+json")
    assert (said["status"], said["code"]) == (status, code)
    assert ("www-authenticate" in fields) is (status == 401)
    assert ("allow" in fields) is (status == 405)


@pytest_twisted.ensureDeferred
async def test_too_many_requests_are_a_problem_that_says_when_to_come_again() -> None:
    port = await PublicPort.open(rate=1, rate_burst=1)
    pair = request("/v1/keys/a") + request("/v1/keys/a")
    client = await port.connect(pair)
    await client.until(lambda: client.data.count(b"HTTP/1.1 ") == 2 and client.data.endswith(b"}"))
    await port.close()
    second = client.data[client.data.rindex(b"HTTP/1.1 429") :]
    assert second.count(b"Retry-After: 1\r\n") == 1
    assert b"application/problem+json" in second


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET"])
@pytest_twisted.ensureDeferred
async def test_a_page_asks_first_and_is_told_what_it_may(port: PublicPort, method: str) -> None:
    wanted = "authorization, if-match, if-none-match, idempotency-key, last-event-id, content-type"
    asks = (f"Origin: {APP}", f"Access-Control-Request-Method: {method}", f"Access-Control-Request-Headers: {wanted}")
    path = "/v1/topics/a" if method == "POST" else "/v1/keys/a"
    head = await port.ask(path, *asks, method="OPTIONS")
    assert head.startswith("HTTP/1.1 204 ")
    assert f"Access-Control-Allow-Origin: {APP}\r\n" in head
    assert f"Access-Control-Allow-Headers: {wanted}\r\n" in head
    assert method in head.partition("Access-Control-Allow-Methods: ")[2].partition("\r\n")[0].split(", ")


@pytest.mark.parametrize(
    ("path", "lines"),
    [("/v1/keys/a", (BEARER,)), ("/v1/keys/a", ()), (f"/v1/topics/a?token={SECRET.replace(' ', '+')}", (STREAM,))],
    ids=["an answer", "a refusal", "a stream"],
)
@pytest_twisted.ensureDeferred
async def test_a_page_may_read_what_it_is_answered(port: PublicPort, path: str, lines: tuple[str, ...]) -> None:
    head = await port.ask(path, f"Origin: {APP}", *lines)
    assert f"Access-Control-Allow-Origin: {APP}\r\n" in head
    exposed = head.partition("Access-Control-Expose-Headers: ")[2].partition("\r\n")[0].split(", ")
    assert {"ETag", "Retry-After", "Idempotent-Replayed", "X-Expires"} <= set(exposed)


@pytest_twisted.ensureDeferred
async def test_a_body_comes_in_any_form_that_http_has(port: PublicPort) -> None:
    chunks = b"3\r\n[1,\r\n2;x=y\r\n2]\r\n0\r\nX: y\r\n\r\n"
    path = "/v1/topics/bodies?durable=1"
    lines = (BEARER, "Transfer-Encoding: chunked")
    assert (await port.ask(path, *lines, method="POST", body=chunks)).startswith("HTTP/1.1 201 ")
    waits = await port.connect(request(path, BEARER, "Expect: 100-continue", "Content-Length: 5", method="POST"))
    assert (await waits.head()).startswith("HTTP/1.1 100 ")
    waits.transport.write(b"[3,4]")
    await waits.until(lambda: b"HTTP/1.1 201 " in waits.data)
    _, _, body = await answer(await port.connect(request("/v1/topics/bodies", BEARER)))
    assert [event["payload"] for event in json.loads(body)["events"]] == [[1, 2], [3, 4]]


@pytest_twisted.ensureDeferred
async def test_who_has_shut_down_its_side_is_answered_when_there_is_something(port: PublicPort) -> None:
    client = await port.connect(request("/v1/topics/half?wait=50", BEARER))
    client.transport.loseWriteConnection()
    await eventually(lambda: port.broker.channels.waiting)
    await port.ask("/v1/topics/half?durable=1", BEARER, "Content-Length: 1", method="POST", body=b"7")
    assert b'"payload":7' in await client.end()


@pytest_twisted.ensureDeferred
async def test_who_has_gone_waits_for_nothing_any_more(port: PublicPort) -> None:
    client = await port.connect(request("/v1/topics/gone?wait=50", BEARER))
    await eventually(lambda: port.broker.channels.waiting)
    client.transport.abortConnection()
    await eventually(lambda: not port.broker.channels.waiting)
    stream = await port.connect(request("/v1/topics/gone", BEARER, STREAM))
    await eventually(lambda: len(port.broker.topics))
    stream.transport.loseWriteConnection()
    stream.transport.abortConnection()
    await eventually(lambda: not len(port.broker.topics))


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("/v1/topics/a?token=hunter2-{}", (STREAM,)),
        ("/v1/keys/a?token=hunter2-{}", ()),
        ("/v1/topics/a?token=hunter2-{}&last=x", (STREAM,)),
        ("/v1/topics/a?token=hunter2-{}", (STREAM, "Origin: https://evil.example")),
        ("/v1/topics/a?token=hunter2-{}" + "x" * 40000, (STREAM,)),
        ("/v1/topics/a?token=hunter2-{}", (STREAM, "X: " + "y" * 40000)),
        ("/v1/nothing?token=hunter2-{}", ()),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_credential_in_a_query_is_never_logged(port: PublicPort, path: str, lines: tuple[str, ...]) -> None:
    with logging() as events:
        assert int((await port.ask(path.format("x"), *lines))[9:12]) >= 400
        await port.ask("/v1/nothing", "Origin: https://evil.example")
    assert events  # so that it is seen that refusals are logged
    assert "hunter2" not in "\n".join([*lines_of(events), *map(repr, events)])


@pytest_twisted.ensureDeferred
async def test_a_failure_of_a_stream_does_not_log_its_credential(
    port: PublicPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("deliberate")

    monkeypatch.setattr(type(port.broker.attach("test", "")), "follow", fail)
    with logging() as events:
        head = await port.ask(f"/v1/topics/a?token={SECRET.replace(' ', '+')}", STREAM)
    assert head.startswith("HTTP/1.1 500 ")
    assert "application/problem+json" in head
    assert lines_of(events) == ["http failed to answer GET /v1/topics/a"]
    assert SECRET not in repr(events)
    assert SECRET.replace(" ", "+") not in repr(events)
