"""What becomes of a client when credentials and permissions are others than before."""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import Deferred

from broker.access.lifetimes import PERMISSION_WAS_WITHDRAWN
from broker.core.call import Party
from broker.core.followers import Follower
from broker.core.keys import Watcher
from broker.core.owners import CLIENT_ID, MEMBER, SERVICE_NAME
from broker.errors import BrokerError
from broker.messages import Identity
from broker.patterns import PRESENCE_PREFIX, QUEUE, is_pattern, split_kind
from broker.peer.presence import PresenceVerbs


class Renewal(PresenceVerbs):
    """Goes on with the rights of today."""

    __slots__ = ()

    def renew(self, identity: Identity) -> bool:
        """Go on as *identity*, the same principal with the rights it has now; see ``Holder.renew``."""
        before, self.identity = self.identity, identity
        self._see_to_name()
        if not self._may_keep_ids():
            return False
        if before.grants == identity.grants:
            return True
        # What it may watch is asked for with each change of a key, of the rights that it had.
        if self._parts.keys.is_watching(cast(Watcher, self)) and _rule(before, "subscribe") != _rule(
            identity, "subscribe"
        ):
            return False
        if not (self._may_keep_topics() and self._may_keep_names()):
            return False
        self._see_to_borrowed_ids(before)
        self._see_to_testament()
        return True

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
        """Whether it may offer the procedures and services that it does, and take the jobs and requests."""
        grants, calls, party = self.identity.grants, self._parts.calls, cast(Party, self)
        if grants is None:
            return True
        registered = [*calls.performers.names_of(party), *calls.services.names_of(party)]
        acknowledged = calls.takers.names_of(party)
        consumed = [QUEUE + queue for queue in self._parts.jobs.consumed(self)]
        held = {"register": registered, "acknowledge": acknowledged, "consume": consumed}
        return all(grants.may(verb, name) for verb, names in held.items() for name in names)

    def _see_to_borrowed_ids(self, before: Identity) -> None:
        """Disconnect it, once the store has said so, if an id that it uses is another's and it may not act as that now.

        Only who could act as an id *before* may have one that is not its own.
        """
        services = [(SERVICE_NAME, name) for name in self._parts.calls.services.names_of(cast(Party, self))]
        for kind, id in ((CLIENT_ID, self.named), (MEMBER, split_kind(self.member)[1]), *services):
            if id and before.grants is not None and before.grants.may_act(id) and not self.may_be(id):
                Deferred.fromCoroutine(self._own_or_leave(kind, id)).addErrback(lambda _: self.fail("an id"))

    async def _own_or_leave(self, kind: str, id: str) -> None:
        try:
            waiting = self._see_to_id(kind, id, "act", only_check=True)
            if waiting is not None:
                await waiting
        except BrokerError:  # if the store can not say it: who comes back is asked again
            if not self.closed:
                self.disconnect(*PERMISSION_WAS_WITHDRAWN)

    def _see_to_testament(self) -> None:
        """Forget its testament if it may not publish that any more."""
        left = self._left
        topic = left.kept.topic if left is not None and left.kept is not None else ""
        if topic and not self._may_name("publish", topic):
            self.drop_testament()


def _rule(identity: Identity, verb: str) -> object:
    return None if identity.grants is None else identity.grants.rule(verb)
