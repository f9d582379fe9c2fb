"""The verbs of the ids that a client gives itself."""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from broker.core.call import Party
from broker.core.owners import CLIENT_ID, MEMBER, SERVICE_NAME
from broker.errors import BrokerError, Gone
from broker.patterns import check_name, split_kind
from broker.peer.client import Client

log = Logger()


class IdVerbs(Client):
    """Take a name, and keep it."""

    __slots__ = ()

    def act_as(self, client: str) -> Deferred[None] | None:
        """See ``IPeer.act_as``."""
        if not self.admitted:
            raise self.unauthenticated("act")
        return self._see_to_id(CLIENT_ID, client, "act", only_check=True)

    async def take_name(self, name: str) -> None:
        """See ``IPeer.take_name``."""
        self._allow("identify", name)
        check_name(name, "name")
        if name in (self.client, self.identity.client):
            settled = self._parts.owners.settled(name)
            if settled is not None:
                await settled
            return
        identity = self.identity
        anonymous = self._parts.access.mode != "none" and not identity.authenticated
        # A user has the name of his token, or none; and so has a key.
        named = (identity.kind == "user" or identity.client) and not self.may_be(name)
        if anonymous or named or self.named:
            raise self.deny("identify", name, "")
        waiting = self._see_to_id(CLIENT_ID, name, "identify")
        if waiting is not None:
            await waiting
        if self.named not in ("", name):
            raise self.deny("identify", name, "")
        if self.closed:
            raise Gone("lost", name)
        self.named = name
        self._see_to_name()
        self.keep_mailbox()

    async def keep_ids(self) -> None:
        """Extend the claims of the ids by which it is connected: client id, member and services."""
        self._parts.owners.claim_name(self.identity)
        services = [(SERVICE_NAME, name) for name in self._parts.calls.services.names_of(cast(Party, self))]
        for kind, id in ((CLIENT_ID, self.named), (MEMBER, split_kind(self.member)[1]), *services):
            try:
                waiting = self._see_to_id(kind, id, "act") if id else None
                if waiting is not None:
                    await waiting
            except BrokerError as error:
                log.info("an id of {peer} was not kept: {code}", peer=self.id, code=error.code)
