"""Calls of procedures: the answer of the callee is the answer to the request."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import msgspec
from twisted.internet.defer import Deferred

from broker.core.bounded import BoundedDict
from broker.errors import BrokerError, CalleeFailed, Invalid
from broker.interfaces import IPeer
from broker.messages import Reply, Request, Response
from broker.patterns import check_name
from broker.sessions import BaseSession
from protocols.http.answers import failed, problem
from protocols.http.operations import Call, Operation
from protocols.http.requests import Strict, json_body

if TYPE_CHECKING:
    from broker.config.settings import Settings

KEPT_SECONDS = 300.0  # for which an answer is repeated to who asks by the same key
MAX_KEPT = 10_000  # answers; beyond, the oldest are forgotten
MAX_KEPT_BYTES = 1 << 25  # of them, together
REPLAYED = ("Idempotent-Replayed", "true")


class CallQuery(Strict):
    """``timeout``: seconds until the call ends with 504."""

    timeout: Annotated[float, msgspec.Meta(gt=0)] | None = None


@attrs.define(eq=False)
class Caller(BaseSession):
    """Waits for the one answer to a call."""

    answered: Deferred[Reply] = attrs.field(factory=Deferred)

    def reply(self, reply: Reply) -> None:
        """Take the answer."""
        if not self.answered.called:
            self.answered.callback(reply)

    def disconnect(self, code: int, reason: str) -> None:
        """End the request: the broker disconnects its client."""
        self.answered.cancel()


@attrs.define(eq=False)
class Kept:
    """A call that was made by a key.

    Attributes:
        request: a digest of what was asked for.
        until: when it is forgotten, by the monotonic clock.
        response: the answer; None while it is under way.
    """

    request: bytes
    until: float
    response: Response | None = None


class Calls:
    """The operations of calls.  Answers are kept by this node, in memory."""

    def __init__(self, settings: Settings) -> None:
        self._timeout = settings.call_timeout_seconds
        self._max_timeout = settings.max_call_timeout_seconds
        self._kept: BoundedDict[tuple[str, str], Kept] = BoundedDict(MAX_KEPT)
        self._bytes = 0

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
        body = _arguments(json_body(call.request))
        key = call.header("idempotency-key")
        if not key:
            return await self._call(call, body)
        check_name(key, "Idempotency-Key")
        peer = call.peer
        owner = peer.identity.owner or peer.id  # nobody else may be shown the answer
        asked = hashlib.sha256(call.name.encode("utf-8", "surrogatepass") + b"\0" + body).digest()
        kept = self._kept.get((owner, key))
        if kept is not None and kept.until > peer.clock.seconds():
            return _again(kept, asked)
        kept = Kept(asked, peer.clock.seconds() + KEPT_SECONDS)
        self._kept[owner, key] = kept
        try:
            response = await self._call(call, body)
        except BrokerError as error:
            response = failed(error)
            if not _was_begun(error):
                self._forget(owner, key, kept)
                return response
        except BaseException:  # cancelled, too: nobody knows what has become of it
            self._forget(owner, key, kept)
            raise
        self._keep(kept, response)
        return response

    def _keep(self, kept: Kept, response: Response) -> None:
        if self._bytes + len(response.body) > MAX_KEPT_BYTES:
            self._bytes = sum(len(each.response.body) for each in self._kept.values() if each.response is not None)
        while self._bytes + len(response.body) > MAX_KEPT_BYTES and len(self._kept) > 1:
            oldest = self._kept.pop(next(iter(self._kept)))
            self._bytes -= len(oldest.response.body) if oldest.response is not None else 0
        kept.response = response
        self._bytes += len(response.body)

    def _forget(self, owner: str, key: str, kept: Kept) -> None:
        if self._kept.get((owner, key)) is kept:
            del self._kept[owner, key]

    async def _call(self, call: Call, body: bytes) -> Response:
        timeout = call.query.timeout
        if timeout is not None and timeout > self._max_timeout:
            raise Invalid("parameter", "timeout", message=f"a timeout is at most {self._max_timeout:g} s")
        reply = await _answer_of(call.peer, call.name, body, timeout or self._timeout)
        if reply.error is not None:
            raise reply.error
        return Response(200, reply.body or b"null")


async def _answer_of(peer: IPeer, procedure: str, body: bytes, timeout: float) -> Reply:
    caller = Caller()
    peer.bind(caller)
    try:
        peer.call("1", Request("", procedure, "", "", body, timeout=timeout))
        return await caller.answered
    finally:
        peer.close()  # cancels the call if it is under way


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
    if kept.response is None:
        return problem(409, "the first call by this Idempotency-Key is under way", code="CONFLICT")
    return attrs.evolve(kept.response, headers=(*kept.response.headers, REPLAYED))
