"""What becomes of a client when credentials and permissions are others than before."""

from __future__ import annotations

from typing import cast

from broker.core.call import Party
from broker.core.followers import Follower
from broker.core.keys import Watcher
from broker.messages import Identity
from broker.patterns import PRESENCE_PREFIX, QUEUE, is_pattern, split_kind
from broker.peer.client import Client


class Renewal(Client):
    """Goes on with the rights of today."""

    __slots__ = ()

    def renew(self, identity: Identity) -> bool:
        """Go on as *identity*, the same principal with the rights it has now; see ``Holder.renew``."""
        before, self.identity = self.identity, identity
        if not self._may_keep_ids():
            return False
        if before.grants == identity.grants:
            return True
        # What it may watch is asked for with each change of a key, of the rights that it had.
        if self._parts.keys.is_watching(cast(Watcher, self)) and _rule(before, "subscribe") != _rule(
            identity, "subscribe"
        ):
            return False
        return self._may_keep_topics() and self._may_keep_names()

    def _may_keep_ids(self) -> bool:
        """Whether the ids that it uses are nobody else's by the configuration."""
        owner_of = self._parts.access.owner_by_name
        used = (id for id in (self.named, split_kind(self.member)[1]) if id)
        return all(self.may_be(id, owner_of(id) or self.identity.owner) for id in used)

    def _may_keep_topics(self) -> bool:
        """Whether it may subscribe to all that it does, and read what it follows from a position."""
        grants = self.identity.grants
        if grants is None:
            return True
        for (topic, exact), held in (self._topics or {}).items():
            asked, plain = topic.removeprefix(PRESENCE_PREFIX), exact or not is_pattern(topic)
            if not (grants.may_name("subscribe", asked) if plain else grants.may("subscribe", asked)):
                return False
            if isinstance(held, Follower) and not (
                grants.may_name("read", topic) if plain else grants.may_all("read", topic)
            ):
                return False
        return True

    def _may_keep_names(self) -> bool:
        """Whether it may offer the procedures and services that it does, and take the jobs."""
        grants, calls, party = self.identity.grants, self._parts.calls, cast(Party, self)
        if grants is None:
            return True
        registered = [*calls.performers.names_of(party), *calls.services.names_of(party)]
        consumed = self._parts.jobs.consumed(self)
        return all(grants.may("register", name) for name in registered) and all(
            grants.may("consume", QUEUE + queue) for queue in consumed
        )


def _rule(identity: Identity, verb: str) -> object:
    return None if identity.grants is None else identity.grants.rule(verb)
