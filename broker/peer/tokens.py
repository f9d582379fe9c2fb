"""The verbs of tokens: make one, show one, revoke one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from broker.errors import Gone, Unauthenticated
from broker.peer.client import Client


class TokenVerbs(Client):
    """Mint, present and revoke."""

    __slots__ = ()

    async def mint(self, claims: Mapping[str, Any], seconds: float) -> str:
        """See ``IPeer.mint``."""
        self._allow("mint", self.identity.name)
        return await self._parts.tokens.mint(self._parts.access.remember(self.identity), claims, seconds)

    async def present(self, token: str) -> Mapping[str, Any]:
        """See ``IPeer.present``."""
        self._verbs["identify"] += 1
        tokens = self._parts.tokens
        if self._parts.failures.addresses:
            self._check_failures()
        try:
            found = await tokens.verify(token)
            self.admit(attrs.evolve(self._parts.access.recall(found.bearer, tokens.tag), expires=found.expires))
        except Unauthenticated as error:
            self._count_failure(token, error, "TXBROKER_TOKEN_SECONDS")
            raise
        if self.closed:
            raise Gone("lost")
        self.token = found.id
        self._hold()
        return found.claims

    async def revoke(self, token: str) -> str:
        """See ``IPeer.revoke``."""
        self._allow("mint", self.identity.name)
        return await self._parts.tokens.revoke(token)

    @property
    def tries_left(self) -> int:
        """See ``IPeer.tries_left``."""
        return max(0, self._parts.settings.auth_tries - self._tries)
