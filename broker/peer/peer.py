"""The only door into the broker: what a dialect may ask for, for one client.

Every verb begins with ``_allow``, the one gate: permission, rate, metric.  A
verb raises a ``BrokerError``, or returns something awaitable that fails with
one; the dialect turns its code into its own words.
"""

from __future__ import annotations

from zope.interface import implementer

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
    core; ``client.Client`` tells its attributes.  ``close`` undoes everything it did.
    """

    __slots__ = ()

    def close(self) -> None:
        """Undo everything this peer did.  Again is nothing."""
        if self.closed:
            return
        self.closed = True
        self.broker.tokens.release(self)
        self.undo()

    async def lives(self, timeout: float) -> bool:
        """Say whether the client gives a sign of life within *timeout* seconds; if not, part with it."""
        alive: bool = await self.probe(timeout)
        if not alive:
            self.disconnect(CloseCode.GOING_AWAY, "replaced")
            self.close()
        return alive

    def undo(self) -> None:
        """Undo everything this peer did; it stays who it is and may begin again."""
        broker = self.broker
        for topic, exact in self._topics or ():
            broker.topics.unsubscribe(self, topic, exact=exact)
        self._topics = None
        if self.member:
            broker.memberships.exit(self.member, self)
            self.member = ""
        if self.session is not None:
            broker.leave(self)
