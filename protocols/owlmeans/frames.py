"""What each frame of a client does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.errors import BrokerError, CalleeFailed, Invalid, RateLimited, Unauthenticated
from broker.messages import Request
from broker.patterns import check_name
from protocols.owlmeans import auth, keys, reserved, wire
from protocols.owlmeans.careful import CAPITAL_E, EXPONENT, LONG, overflows
from protocols.owlmeans.marshalled import normalise
from protocols.owlmeans.method import Methods
from protocols.owlmeans.wire import RESULT, Envelope, encode

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session

log = Logger()

METHODS = Methods(*reserved.METHODS, *keys.METHODS)
RESERVED = "broker."  # what the broker's own methods begin with
BRACKET = ord("[")
MALFORMED = ("SocketErrorMessageMalformed", "socket:message:malformed:payload")


def call(session: Session, envelope: Envelope) -> None:
    """Call a method: of the broker, of the recipient, or of whoever performs it."""
    ref, method, recipient, timeout = envelope.id, envelope.method, envelope.recipient, envelope.timeout
    body = bytes(envelope.payload)
    try:
        if not ref:
            raise Invalid("id")
        if (
            not body
            or body[0] != BRACKET
            or ((EXPONENT(body) or CAPITAL_E in body or len(body) >= LONG) and overflows(body))
        ):
            raise Invalid("payload")
        if not method:
            raise Invalid("method")
        if method[0] == "@":
            recipient, _, method = method[1:].partition("/")
            check_name(method, "method")
        elif not recipient and method.startswith(RESERVED):
            _call_broker(session, ref, method, body)
            return
        if timeout is None or timeout > session.longest:
            timeout = session.longest if timeout else session.usual
        session.peer.call(ref, Request("", method, "", "", body, "", recipient, timeout / 1000, envelope.dt / 1000))
    except BrokerError as error:
        session.refuse(error, envelope)


def result(session: Session, envelope: Envelope) -> None:
    """Answer a call or a request."""
    body = bytes(envelope.payload) or b"null"
    if not envelope.id:
        session.notice(Invalid("id"), envelope)
    elif (EXPONENT(body) or CAPITAL_E in body or len(body) >= LONG) and overflows(body):
        # The caller must not wait for an answer that it can not get.
        session.peer.answer(envelope.id, b"null", CalleeFailed(*MALFORMED))
    else:
        session.peer.answer(envelope.id, body, time=envelope.dt / 1000)


def failure(session: Session, envelope: Envelope) -> None:
    """Answer a call or a request with an error."""
    if envelope.id:
        error = normalise(bytes(envelope.payload), session.settings.owlmeans_pass_stacks)
        session.peer.answer(envelope.id, b"null", error, time=envelope.dt / 1000)
    else:
        session.notice(Invalid("id"), envelope)


def request(session: Session, envelope: Envelope) -> None:
    """Send a request to the recipient, or to one who takes its topic."""
    body = bytes(envelope.payload) or b"null"
    try:
        if not envelope.id:
            raise Invalid("id")
        if (EXPONENT(body) or CAPITAL_E in body or len(body) >= LONG) and overflows(body):
            raise Invalid("payload")
        asked = Request("", "", "", "", body, recipient=envelope.recipient, time=envelope.dt / 1000)
        session.peer.request(envelope.id, asked, _action(body))
    except BrokerError as error:
        session.refuse(error, envelope)


def event(session: Session, envelope: Envelope) -> None:
    """Publish an event."""
    name, body = envelope.event, bytes(envelope.payload)
    try:
        if (EXPONENT(body) or CAPITAL_E in body or len(body) >= LONG) and overflows(body):
            raise Invalid("payload")
        published = session.peer.publish(name, name, body or None, time=envelope.dt / 1000)
    except BrokerError as error:
        session.notice(error, envelope)
    else:
        published.addErrback(_failed, session, envelope)


def message(session: Session, envelope: Envelope) -> None:
    """Send a message to a client's mailbox or to a work queue."""
    body = bytes(envelope.payload)
    try:
        if (EXPONENT(body) or CAPITAL_E in body or len(body) >= LONG) and overflows(body):
            raise Invalid("payload")
        sent = session.peer.enqueue(envelope.id, body, recipient=envelope.recipient, time=envelope.dt / 1000)
    except BrokerError as error:
        session.notice(error, envelope)
    else:
        sent.addCallback(_enqueued, session, envelope)
        sent.addErrback(_failed, session, envelope)


def ping(session: Session, envelope: Envelope) -> None:
    """Give a sign of life."""
    session.link.send(wire.PONG)


def unauthorized(session: Session, envelope: Envelope) -> None:
    """Refuse what a client may not do before it has shown who it is."""
    session.refuse(Unauthenticated(envelope.type), envelope)


def _call_broker(session: Session, ref: str, name: str, body: bytes) -> None:
    method = METHODS.read(name, body)

    async def perform() -> None:
        session.answer(RESULT, ref, encode(await method.run(session)))
        method.sent(session)

    Deferred.fromCoroutine(perform()).addErrback(_failed, session, Envelope(type="call", id=ref, method=name))


def _enqueued(dropped: bool, session: Session, envelope: Envelope) -> None:
    if dropped:
        session.notice(RateLimited("limit", "mailbox"), envelope)


def _failed(failure: Failure, session: Session, envelope: Envelope) -> None:
    error = failure.value
    if not isinstance(error, BrokerError):
        log.failure("{type} {method} failed", failure, type=envelope.type, method=envelope.method)
        error = BrokerError()
    session.refuse(error, envelope)


class _Payload(msgspec.Struct):
    action: str = ""


_decode = msgspec.json.Decoder(_Payload).decode


def _action(body: bytes) -> str:
    """Return the topic of a request: "payload.action if it is a string"."""
    try:
        return _decode(body).action
    except (msgspec.DecodeError, RecursionError):
        return ""


Handlers = Mapping[str, Callable[["Session", Envelope], None]]

HANDLERS: Handlers = {
    "call": call,
    "result": result,
    "error": failure,
    "request": request,
    "response": result,
    "event": event,
    "message": message,
    "auth": auth.answer,
    "ping": ping,
}

# "Required mode, not yet authenticated: only auth and ping work."
GUEST: Handlers = {**dict.fromkeys(HANDLERS, unauthorized), "auth": auth.answer, "ping": ping}
