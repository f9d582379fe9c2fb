"""Who a client is: by the URL and headers of its handshake, or in stages afterwards."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.errors import BrokerError, Denied, Invalid, RateLimited, Refused, Unauthenticated
from broker.interfaces import IPeer
from broker.jsontext import decode
from broker.messages import CloseCode, HttpRequest
from protocols.owlmeans import wire
from protocols.owlmeans.marshalled import marshal, refused, unsupported
from protocols.owlmeans.session import Session, check_client_id
from protocols.owlmeans.wire import Envelope

log = Logger()

STATUSES = {"INVALID": 400, "RATE_LIMITED": 429, "UNAVAILABLE": 503}  # of a refused handshake, else 403
MAX_PARAMETERS = 32  # of the query


class _Shown(msgspec.Struct):
    """The payload of stage ``authenticate``."""

    token: str = ""


_shown = msgspec.json.Decoder(_Shown)


def parameters(request: HttpRequest) -> dict[str, str]:
    """Return the query parameters, the first of each name.

    Raises:
        Refused: there are too many.
    """
    if not request.query:
        return {}
    try:
        found = parse_qs(request.query, max_num_fields=MAX_PARAMETERS, errors="replace")
    except ValueError:
        raise Refused(400, body=marshal(Invalid("query")).encode()) from None
    return {name: values[0] for name, values in found.items()}


async def handshake(session: Session, token: str, name: str) -> None:
    """Authenticate and name the client as its URL and headers say.

    A name needs a credential wherever clients may show one.  Without one, it is
    kept until one was shown in a frame.

    Args:
        session: of the client, new.
        token: the credential that it shows, or "".
        name: the client id that it asks for, or "".

    Raises:
        Refused: with the status, "401 not authenticated, 403 gate refused", and
            the error as the body.
    """
    peer = session.peer
    try:
        if token:
            peer.identify(token)
            session.authenticated = True
        if name and (token or session.settings.auth == "none"):
            await session.take_name(name)
        elif name:
            session.name = check_client_id(name)
    except Unauthenticated as error:
        raise Refused(401, body=refused("token", error.explanation).encode()) from None
    except BrokerError as error:
        seconds = error.retry_after if isinstance(error, RateLimited) else 0.0
        status = STATUSES.get(error.code, 403)
        raise Refused(status, body=marshal(error).encode(), retry_after=seconds) from None


def on_auth(session: Session, envelope: Envelope) -> None:
    """Answer an ``auth`` frame: one with a stage by exactly one, one without by none.

    Who is authenticated already may show another credential of the same principal, which then
    says when the connection ends.

    Two peers that answer failures with failures would loop for ever.
    """
    stage = envelope.stage
    try:
        session.peer.pace()
    except RateLimited as error:
        if stage is not None:
            _send(session, None, refused(_reason(error)))
        return
    if stage is None:
        return
    if stage == "authenticate":
        _authenticate(session, bytes(envelope.payload))
    elif stage == "authenticated":
        known = session.authenticated
        _send(session, stage if known else None, _record(session.peer) if known else refused("unauthenticated"))
    elif stage == "init" and session.settings.auth != "required":
        _send(session, stage, {"methods": ["token"]})
    else:
        _send(session, None, unsupported(stage))


def _authenticate(session: Session, payload: bytes) -> None:
    token = _token(payload)
    try:
        session.peer.identify(token)
    except BrokerError as error:
        _send(session, None, refused(_reason(error), error.explanation))
        if not session.peer.tries_left:
            session.link.close(CloseCode.POLICY_VIOLATION, refused("tries"))
        return
    session.authenticated = True
    # The name comes before the answer, which says under which one the client is known.
    if not session.name:
        _authenticated(session, token)
        return
    session.link.pause_receiving()  # what it sends meanwhile is looked at when it is admitted
    named = Deferred.fromCoroutine(session.take_name_of_url())
    named.addCallback(lambda _: _authenticated(session, token)).addErrback(_failed, session)
    named.addBoth(lambda _: session.link.resume_receiving())


def _authenticated(session: Session, token: str) -> None:
    if not session.peer.closed:
        _send(session, "authenticated", {**_record(session.peer), "token": token})
        session.admit()


def _failed(failure: Failure, session: Session) -> None:
    log.failure("owlmeans session {conn} failed to take its name", failure, conn=session.peer.id)
    session.link.close(CloseCode.INTERNAL_ERROR, "internal error")


def _token(payload: bytes) -> str:
    try:
        return decode(_shown, payload).token
    except Invalid:
        return ""


def _reason(error: BrokerError) -> str:
    if isinstance(error, Denied):
        return "identity"
    if isinstance(error, RateLimited):
        return "tries" if error.name == "tries" else "limit"
    return "token"


def _record(peer: IPeer) -> dict[str, Any]:
    """Return the record of the client; its profile is its client id."""
    details = peer.identity.details
    return {
        "userId": details.get("userId", peer.client),
        "profileId": peer.client,
        "role": details.get("role", "user"),
        "scopes": details.get("scopes", []),
    }


def _send(session: Session, stage: str | None, payload: Any) -> None:
    session.link.send(wire.auth(stage, payload))
