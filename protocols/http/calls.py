"""Calls of procedures: the answer of the callee is the answer to the request."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from twisted.logger import Logger

from broker.core.uncancelled import uncancelled
from broker.errors import BrokerError, CalleeFailed, Conflict, Invalid
from broker.messages import Request, Response
from broker.patterns import check_name
from broker.sessions import CallerSession
from protocols.http.answers import failed, problem
from protocols.http.operations import Call, Operation
from protocols.http.requests import Strict, json_body

if TYPE_CHECKING:
    from broker.config.settings import Settings

KEPT_SECONDS = 300.0  # for which an answer is repeated to who asks by the same key
LATE_SECONDS = 5.0  # after its timeout a call that nobody has heard of may be made again
REPLAYED = ("Idempotent-Replayed", "true")

log = Logger()

_encode = msgspec.msgpack.Encoder().encode


class CallQuery(Strict):
    """``timeout``: seconds until the call ends with 504."""

    timeout: Annotated[float, msgspec.Meta(gt=0)] | None = None


class Kept(msgspec.Struct, array_like=True, omit_defaults=True):
    """A call that was made by a key.

    Attributes:
        request: a digest of what was asked for.
        status: of the answer; 0 while the call is under way.
    """

    request: bytes
    status: int = 0
    body: bytes = b""
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()


_decode = msgspec.msgpack.Decoder(Kept).decode


class Calls:
    """The operations of calls.  What was answered by a key is noted in the store, for all nodes."""

    def __init__(self, settings: Settings) -> None:
        self._timeout = settings.call_timeout_seconds
        self._max_timeout = settings.max_call_timeout_seconds

    def operations(self) -> tuple[Operation, ...]:
        """Return them."""
        return (
            Operation(
                "POST",
                "/call/{procedure}",
                "Call a procedure; an array has its arguments, any other value is the only one.",
                self.call,
                CallQuery,
                headers=("Idempotency-Key",),
                body=Any,
                results={200: "Its result, as it is."},
                errors=(409, 422, 502, 504),
            ),
        )

    async def call(self, call: Call) -> Response:
        """Call the procedure; by an ``Idempotency-Key`` once."""
        body, key, timeout = _arguments(json_body(call.request)), call.header("idempotency-key"), self._seconds(call)
        if not key:
            return await _made(call, body, timeout)
        check_name(key, "Idempotency-Key")
        # The client may go and ask again: what has begun by the key is to be known then.
        return await uncancelled(_made_once(call, key, body, timeout))

    def _seconds(self, call: Call) -> float:
        timeout: float | None = call.query.timeout
        if timeout is not None and timeout > self._max_timeout:
            raise Invalid("parameter", "timeout", message=f"a timeout is at most {self._max_timeout:g} s")
        return timeout or self._timeout


async def _made(call: Call, body: bytes, timeout: float) -> Response:
    """Return the answer to a call that is made now; it is cancelled with the request."""
    caller = CallerSession()
    call.peer.bind(caller)
    try:
        return await _answer_of(call, caller, body, timeout)
    finally:
        call.peer.close()  # cancels the call if it is under way


async def _made_once(call: Call, key: str, body: bytes, timeout: float) -> Response:
    """Return the answer to a call that is made by *key*, at whatever node, now or before."""
    caller = CallerSession()
    call.peer.bind(caller)  # so that it stays when its client goes
    try:
        return await _made_or_repeated(call, caller, key, body, timeout)
    finally:
        call.peer.close()


async def _made_or_repeated(call: Call, caller: CallerSession, key: str, body: bytes, timeout: float) -> Response:
    peer = call.peer
    asked = hashlib.sha256(call.name.encode("utf-8", "surrogatepass") + b"\0" + body).digest()
    try:
        note = await peer.note(key, _encode(Kept(asked)), timeout + LATE_SECONDS, revision=0)
    except Conflict:
        found = await peer.noted(key)
        return _again(_decode(found.value) if found is not None else Kept(asked), asked)
    try:
        response = await _answer_of(call, caller, body, timeout)
    except BrokerError as error:
        response = failed(error)
        if not _was_begun(error):
            await peer.forget_note(key, revision=note.revision)
            return response
    kept = Kept(asked, response.status, response.body, response.content_type, response.headers)
    try:
        await peer.note(key, _encode(kept), KEPT_SECONDS, revision=note.revision)
    except BrokerError as error:
        log.warn("the answer to a call by a key is not kept: {code}", code=error.code)
    return response


async def _answer_of(call: Call, caller: CallerSession, body: bytes, timeout: float) -> Response:
    call.peer.call("1", Request("", call.name, "", "", body, timeout=timeout))
    reply = await caller.answered
    if reply.error is not None:
        raise reply.error
    return Response(200, reply.body or b"null")


def _arguments(body: bytes) -> bytes:
    """Return the JSON array of the arguments: the body if it is one, or the value alone."""
    text = body.strip(b" \t\r\n")
    if not text:
        return b"[]"
    return body if text[:1] == b"[" else b"[%b]" % body


def _was_begun(error: BrokerError) -> bool:
    """Whether the callee may have begun: then the call is not made again by the same key."""
    return isinstance(error, CalleeFailed) or error.code in ("TIMEOUT", "GONE", "CANCELLED")


def _again(kept: Kept, asked: bytes) -> Response:
    if kept.request != asked:
        return problem(422, "this Idempotency-Key was used for another call", code="INVALID")
    if not kept.status:
        return problem(409, "the first call by this Idempotency-Key is under way", code="CONFLICT")
    return Response(kept.status, kept.body, kept.content_type, (*kept.headers, REPLAYED))
