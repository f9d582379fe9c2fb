"""Tokens: credentials that the broker itself gives out, for a while.

A token is a JSON web token, signed with a key that lives in the store: it is
valid on every node and after a restart, until it expires or is revoked.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from broker.errors import Conflict, Unauthenticated
from broker.interfaces import IStore
from broker.messages import CloseCode, Event
from broker.patterns import CONTROL_PREFIX

SPACE = "token"  # holds the signing key, and what was revoked
SIGNING_KEY = "key"
REVOKED = "revoked:"  # + id
CONTROL = CONTROL_PREFIX + "revoked"  # topic by which nodes notify each other
ALGORITHM = "HS256"
HAS_EXPIRED = (CloseCode.TOKEN_EXPIRED, "token expired")
WAS_REVOKED = (CloseCode.TOKEN_REVOKED, "token revoked")


class Holder(Protocol):
    """What tokens need of a peer."""

    def disconnect(self, code: int, reason: str) -> None:
        """Close the client's connection."""


@attrs.frozen
class Token:
    """What a token says.

    Attributes:
        id: unique; by it the token is revoked.
        bearer: the record that ``Access.remember`` made of the identity it speaks for.
        claims: what the dialect that asked for it wants to know again.
        expires: seconds since the epoch.
    """

    id: str
    bearer: Mapping[str, Any]
    claims: Mapping[str, Any]
    expires: float


@attrs.define(eq=False)
class Held:
    """A token that a connected client lives by."""

    token: Token
    expiry: IDelayedCall


class Tokens:
    """Signs, verifies and revokes tokens, and disconnects those whose token has ended.

    Args:
        store: keeps the signing key and what was revoked.
        publish: notifies all nodes of a revocation.
        clock: gives the time.
    """

    def __init__(self, store: IStore, publish: Callable[[Event], object], clock: IReactorTime) -> None:
        self._store, self._publish, self._clock = store, publish, clock
        self._key = b""
        self._holders: dict[str, dict[Holder, Held]] = {}
        self._tokens: dict[Holder, str] = {}

    async def mint(self, bearer: Mapping[str, Any], claims: Mapping[str, Any], seconds: float) -> str:
        """Return a new token that is valid for *seconds*."""
        record = {
            "jti": secrets.token_urlsafe(12),
            "exp": self._clock.seconds() + seconds,
            "bearer": dict(bearer),
            "claims": dict(claims),
        }
        import jwt  # here: see principals.py

        return jwt.encode(record, await self._signing_key(), algorithm=ALGORITHM)

    async def verify(self, text: str) -> Token:
        """Return what the token *text* says.

        Raises:
            Unauthenticated: it is not one of ours, has expired or was revoked.
        """
        token = self._read(text, await self._signing_key())
        if token.expires <= self._clock.seconds() or await self._store.get(SPACE, REVOKED + token.id) is not None:
            raise Unauthenticated("token")
        return token

    async def revoke(self, text: str) -> None:
        """Revoke the token *text*, and disconnect those who live by it.

        Raises:
            Unauthenticated: it is not one of ours.
        """
        token = self._read(text, await self._signing_key())
        await self._store.set(SPACE, REVOKED + token.id, b"", expires=token.expires)
        self._publish(Event(CONTROL, "revoked", None, token.id, self._clock.seconds()))

    def revoked(self, event: Event) -> None:
        """Disconnect those who live by the token that *event* names."""
        for holder in list(self._holders.get(event.source, ())):
            self._end(holder, WAS_REVOKED)

    def hold(self, holder: Holder, token: Token) -> None:
        """Disconnect *holder* when *token* ends; it replaces one held before."""
        self.release(holder)
        delay = max(0.0, token.expires - self._clock.seconds())
        held = Held(token, self._clock.callLater(delay, self._end, holder, HAS_EXPIRED))
        self._tokens[holder] = token.id
        self._holders.setdefault(token.id, {})[holder] = held

    def release(self, holder: Holder) -> None:
        """Undo ``hold``; a no-op without one."""
        id = self._tokens.pop(holder, None)
        if id is None:
            return
        holders = self._holders[id]
        held = holders.pop(holder)
        if not holders:
            del self._holders[id]
        if held.expiry.active():
            held.expiry.cancel()

    def forget_key(self) -> None:
        """Read the signing key again when it is needed next: the store has lost it."""
        self._key = b""

    def stop(self) -> None:
        """Forget all holders."""
        for holder in list(self._tokens):
            self.release(holder)

    def _end(self, holder: Holder, end: tuple[int, str]) -> None:
        self.release(holder)
        holder.disconnect(*end)

    def _read(self, text: str, key: bytes) -> Token:
        import jwt  # here: see principals.py

        try:
            # Expiry is compared with our own clock instead.
            record = jwt.decode(text, key, algorithms=[ALGORITHM], options={"verify_exp": False, "require": ["jti"]})
            return Token(record["jti"], record["bearer"], record["claims"], float(record["exp"]))
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError):
            raise Unauthenticated("token") from None

    async def _signing_key(self) -> bytes:
        if not self._key:
            entry = await self._store.get(SPACE, SIGNING_KEY)
            if entry is None:
                try:
                    entry = await self._store.set(SPACE, SIGNING_KEY, secrets.token_bytes(32), revision=0)
                except Conflict:  # another node was faster
                    entry = await self._store.get(SPACE, SIGNING_KEY)
            assert entry is not None
            self._key = entry.value
        return self._key
