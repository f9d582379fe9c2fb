"""The client API: what a dialect may ask for, for one client.

Every verb begins with ``_allow``, which checks permission and rate and counts
the verb.  A verb raises a ``BrokerError``, or returns something awaitable that fails with
one; the dialect turns its code into its own words.
"""

from __future__ import annotations

from zope.interface import implementer

from broker.core.parts import Parts
from broker.interfaces import IPeer
from broker.messages import CloseCode
from broker.peer.calls import CallVerbs
from broker.peer.channels import ChannelVerbs
from broker.peer.identity import IdentityVerbs
from broker.peer.keys import KeyVerbs
from broker.peer.memberships import MembershipVerbs
from broker.peer.queues import QueueVerbs


@implementer(IPeer)
class Peer(IdentityVerbs, MembershipVerbs, ChannelVerbs, CallVerbs, QueueVerbs, KeyVerbs):
    """One client, or one HTTP request of one, and all that it holds.

    Its verbs are in the modules beside this one, a module for each part of the
    core; ``client.Client`` has its attributes.  ``close`` undoes everything it did.
    """

    __slots__ = ()

    def close(self) -> None:
        """See ``IPeer.close``."""
        if self.closed:
            return
        self.closed = True
        self._parts.tokens.release(self)
        self.undo()

    async def lives(self, timeout: float) -> bool:
        """Say whether the client responds within *timeout* seconds; if not, disconnect and close it."""
        alive: bool = await self.probe(timeout)
        if not alive:
            self.disconnect(CloseCode.GOING_AWAY, "replaced")
            self.close()
        return alive

    def undo(self) -> None:
        """See ``IPeer.undo``."""
        parts = self._parts
        for topic, exact in self._topics or ():
            parts.topics.unsubscribe(self, topic, exact=exact)
        self._topics = None
        if self.member:
            parts.memberships.exit(self.member, self)
            self.member = ""
        if self.session is not None:
            held = parts.cluster.names_of(self)
            parts.calls.leave(self)
            parts.keys.unwatch(self)
            parts.queues.leave(self)
            parts.presence.leave(self)
            # Others may hold the same: only now it is known what nobody here holds.
            parts.cluster.release(held)


def make_peer(parts: Parts, dialect: str, address: str) -> Peer:
    """Return a new peer for a client of *dialect* at *address*."""
    return Peer(
        parts,
        dialect,
        address,
        parts.access.anonymous,
        parts.access.mode != "required",
        parts.metrics.verbs_of(dialect),
        parts.buckets.of(address),
    )
