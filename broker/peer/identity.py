"""The verbs by which a client shows who it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from broker.errors import Denied, Gone, RateLimited, Unauthenticated
from broker.interfaces import ISession
from broker.messages import Identity
from broker.patterns import BROKER, QUEUE, RESERVED_PREFIX, check_name
from broker.peer.client import Client

SESSION_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # the shape of a session id


class IdentityVerbs(Client):
    """Say who the client is."""

    __slots__ = ()

    def bind(self, session: ISession, disconnect: Callable[[int, str], object] | None = None) -> None:
        """See ``IPeer.bind``."""
        self.session, self._disconnect = session, disconnect

    def identify(self, credential: object) -> Identity:
        """See ``IPeer.identify``."""
        self._verbs["identify"] += 1
        if self._tries >= self._parts.settings.auth_tries:
            raise RateLimited("limit", "tries")
        try:
            identity = self._parts.access.identify(credential)
        except Unauthenticated:
            self._tries += 1
            self._parts.metrics.auth_failures[self.dialect] += 1
            raise
        if self.identity.authenticated and identity.name != self.identity.name:
            raise Denied("identify", identity.name)
        self.admit(identity)
        return identity

    def admit(self, identity: Identity) -> None:
        """See ``IPeer.admit``."""
        self.identity = identity
        self.admitted = True
        self._tries = 0
        if identity.name:
            self._parts.mailboxes.open(identity.name)
            self._bucket = self._parts.buckets.of(f"name:{identity.name}")

    async def mint(self, claims: Mapping[str, Any], seconds: float) -> str:
        """See ``IPeer.mint``."""
        self._allow("mint", self.identity.name)
        return await self._parts.tokens.mint(self._parts.access.remember(self.identity), claims, seconds)

    async def present(self, token: str) -> Mapping[str, Any]:
        """See ``IPeer.present``."""
        self._verbs["identify"] += 1
        try:
            found = await self._parts.tokens.verify(token)
            self.admit(self._parts.access.recall(found.bearer))
        except Unauthenticated:
            self._parts.metrics.auth_failures[self.dialect] += 1
            raise
        if self.closed:
            raise Gone("lost")
        self._bucket = self._parts.buckets.of(f"token:{found.id}")
        self._parts.tokens.hold(self, found)
        return found.claims

    async def revoke(self, token: str) -> None:
        """See ``IPeer.revoke``."""
        self._allow("mint", self.identity.name)
        await self._parts.tokens.revoke(token)

    @property
    def tries_left(self) -> int:
        """See ``IPeer.tries_left``."""
        return max(0, self._parts.settings.auth_tries - self._tries)

    def take_name(self, name: str) -> None:
        """See ``IPeer.take_name``."""
        self._allow("identify", name)
        check_name(name, "name")
        if name in (self.identity.name, self.named):
            return
        access = self._parts.access
        anonymous = access.mode != "none" and not self.identity.authenticated
        if anonymous or self.identity.name or self.named or access.knows(name) or self._is_another(name):
            raise Denied("identify", name)
        self.named = name
        self._parts.mailboxes.open(name)

    def _is_another(self, name: str) -> bool:
        """Whether *name* could be taken for the broker, a queue or another client's session."""
        if name == BROKER or name.startswith((RESERVED_PREFIX, QUEUE)):
            return True
        if self._parts.bus.shared and SESSION_ID.fullmatch(name):
            return True  # it could be one of another node
        return any(peer.id == name and peer is not self for peer in self._parts.presence.sessions(name))
