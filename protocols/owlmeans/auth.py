"""Who a client is: by the URL and headers of its handshake, or in stages afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec

from broker.errors import BrokerError, Denied, Invalid, RateLimited, Refused, Unauthenticated
from broker.interfaces import IPeer
from broker.messages import CloseCode, HttpRequest
from protocols.owlmeans import wire
from protocols.owlmeans.marshalled import marshal, refused, unsupported

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session
    from protocols.owlmeans.wire import Envelope

MAX_NAME = 128  # characters of a client id
FIELDS = 32  # query parameters that are looked at


class _Shown(msgspec.Struct):
    """The payload of stage ``authenticate``."""

    token: str = ""


_decode = msgspec.json.Decoder(_Shown).decode


def parameters(request: HttpRequest) -> dict[str, str]:
    """Return the query parameters, the first of each name.

    Raises:
        Refused: there are too many.
    """
    try:
        found = parse_qs(request.query, max_num_fields=FIELDS, errors="replace")
    except ValueError:
        raise Refused(400, body=marshal(Invalid("query")).encode()) from None
    return {name: values[0] for name, values in found.items()}


def handshake(peer: IPeer, token: str, name: str) -> bool:
    """Let the client in as its URL and headers say; say whether it showed a credential.

    Raises:
        Refused: with the status, "401 not authenticated, 403 gate refused", and
            the error as the body.
    """
    try:
        if token:
            peer.identify(token)
        if name and peer.admitted:
            take_name(peer, name)
    except Unauthenticated:
        raise Refused(401, body=refused("token").encode()) from None
    except BrokerError as error:
        status = 400 if isinstance(error, Invalid) else 429 if isinstance(error, RateLimited) else 403
        raise Refused(status, body=marshal(error).encode()) from None
    return bool(token)


def take_name(peer: IPeer, name: str) -> None:
    """Let *name* be the client id, where the credential names nobody.

    Raises:
        Invalid: it is empty or too long.
        Denied: it can not have it.
    """
    if not 0 < len(name) <= MAX_NAME:
        raise Invalid("name")
    peer.take_name(name)


def answer(session: Session, envelope: Envelope) -> None:
    """Answer an ``auth`` frame: one with a stage by exactly one, one without by none.

    Two peers that answer failures with failures would loop for ever.
    """
    stage = envelope.stage
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
        _send(session, None, refused(_reason(error)))
        if not session.peer.tries_left:
            session.link.close(CloseCode.POLICY_VIOLATION, refused("tries"))
        return
    session.authenticated = True
    _send(session, "authenticated", {**_record(session.peer), "token": token})
    session.admit()


def _token(payload: bytes) -> str:
    try:
        return _decode(payload).token
    except (msgspec.DecodeError, RecursionError):
        return ""


def _reason(error: BrokerError) -> str:
    if isinstance(error, Denied):
        return "identity"
    return "tries" if isinstance(error, RateLimited) else "token"


def _record(peer: IPeer) -> dict[str, Any]:
    """Return the record of the client; its profile is its client id."""
    told = peer.identity.details
    return {
        "userId": told.get("userId", peer.client),
        "profileId": peer.client,
        "role": told.get("role", "user"),
        "scopes": told.get("scopes", []),
    }


def _send(session: Session, stage: str | None, payload: Any) -> None:
    session.link.send(wire.auth(stage, payload))
