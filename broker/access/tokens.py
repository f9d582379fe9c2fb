"""Tokens: credentials that the broker itself gives out, for a while.

A token is a JSON web token, signed with a key that lives in the store: it is
valid on every node and after a restart, until it expires or is revoked.
"""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import attrs

from broker.errors import Conflict, Unauthenticated
from broker.interfaces import IStore
from broker.messages import Announcement, Event
from broker.patterns import CONTROL_PREFIX

SPACE = "token"  # holds the signing key, and what was revoked
SIGNING_KEY = "key"
REVOKED = "revoked:"  # + id
CONTROL = CONTROL_PREFIX + "revoked"  # topic by which nodes notify each other
ALGORITHM = "HS256"
MAX_REVOKED = 1000  # tokens that are known here as revoked, while the store may not have said so yet
TAG_LENGTH = 32  # hexadecimal digits


@attrs.frozen
class Token:
    """What a token says.

    Attributes:
        id: unique; by it the token is revoked.
        bearer: the record that ``Access.remember`` made of the identity it speaks for, with
            the ``Tokens.tag`` of its fingerprint.
        claims: what the dialect that asked for it wants to know again.
        expires: seconds since the epoch.
    """

    id: str
    bearer: Mapping[str, Any]
    claims: Mapping[str, Any]
    expires: float


class Tokens:
    """Signs, verifies and revokes tokens; they expire by the time of the store, which is the same for all nodes.

    Args:
        store: keeps the signing key and what was revoked.
        publish: notifies all nodes of a revocation.
        end: disconnects those who live by the token with an id.
    """

    def __init__(
        self,
        store: IStore,
        publish: Callable[[Event], object],
        end: Callable[[str], object] = lambda id: None,
    ) -> None:
        self._store, self._publish, self._end = store, publish, end
        self._key = b""
        self._revoked: OrderedDict[str, None] = OrderedDict()

    async def mint(self, bearer: Mapping[str, Any], claims: Mapping[str, Any], seconds: float) -> str:
        """Return a new token that is valid for *seconds*, but no longer than what *bearer* was admitted by.

        Raises:
            Unauthenticated: that has expired already.
        """
        key, now = await self._signing_key(), self._store.wall.time()
        expires = min(now + seconds, bearer.get("expires") or inf)
        if expires <= now:
            raise Unauthenticated("token")
        record = {
            "jti": secrets.token_urlsafe(12),
            "exp": expires,
            "bearer": {**bearer, "fingerprint": self.tag(bearer.get("fingerprint", ""))},
            "claims": dict(claims),
        }
        import jwt  # here: see web_tokens.py

        return jwt.encode(record, key, algorithm=ALGORITHM)

    def tag(self, fingerprint: str) -> str:
        """Return what stands for the *fingerprint* of a key in tokens: nobody else can tell of which key it is.

        Whoever has a token can read it, and could try all likely secrets until one has its
        fingerprint.  Only while ``mint`` or ``verify`` has read the signing key.
        """
        assert self._key, "the signing key was not read"
        return hmac.digest(self._key, b"fingerprint\0" + fingerprint.encode(), "sha256").hex()[:TAG_LENGTH]

    async def verify(self, text: str) -> Token:
        """Return what the token *text* says.

        Raises:
            Unauthenticated: it is not one of ours, has expired or was revoked.
        """
        token = self._read(text, await self._signing_key())
        if token.expires <= self._store.wall.time() or await self._store.get(SPACE, REVOKED + token.id) is not None:
            raise Unauthenticated("token", guessed=False)
        if token.id in self._revoked:  # while the answer of the store was under way
            raise Unauthenticated("token", guessed=False)
        return token

    async def revoke(self, text: str) -> str:
        """Revoke the token *text*, and disconnect those who live by it, on every node; return its id.

        Raises:
            Unauthenticated: it is not one of ours.
        """
        token = self._read(text, await self._signing_key())
        await self.revoke_id(token.id, token.expires)
        return token.id

    async def revoke_id(self, id: str, expires: float) -> None:
        """Do what ``revoke`` does with the token that has this *id* and ends at *expires*."""
        now = self._store.wall.time()
        # One step where there are other nodes: whoever has revoked a token may rely on it, whatever ends now.
        made = Announcement(CONTROL, "revoked", now, None, id, stored=True) if self._store.announces else None
        await self._store.set(SPACE, REVOKED + id, b"", expires=expires, announcement=made)
        if made is None:
            self._publish(Event(CONTROL, "revoked", None, id, now))

    def revoked(self, event: Event) -> None:
        """Disconnect those who live by the token that *event* names."""
        self._revoked[event.source] = None
        if len(self._revoked) > MAX_REVOKED:
            self._revoked.popitem(last=False)
        self._end(event.source)

    def forget_key(self) -> None:
        """Read the signing key again when it is needed next: the store has lost it."""
        self._key = b""

    def _read(self, text: str, key: bytes) -> Token:
        import jwt  # here: see web_tokens.py

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
