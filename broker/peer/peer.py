"""The client API: what a dialect may ask for, for one client.

Every verb begins with ``_allow``, which checks permission and rate and counts
the verb.  A verb raises a ``BrokerError``, or returns something awaitable that fails with
one; the dialect turns its code into its own words.
"""

from __future__ import annotations

from zope.interface import implementer

from broker.interfaces import IPeer
from broker.peer.calls import CallVerbs
from broker.peer.following import FollowVerbs
from broker.peer.jobs import JobVerbs
from broker.peer.keys import KeyVerbs
from broker.peer.memberships import MembershipVerbs
from broker.peer.notes import NoteVerbs
from broker.peer.presence import PresenceVerbs
from broker.peer.renewal import Renewal
from broker.peer.tokens import TokenVerbs


@implementer(IPeer)
class Peer(Renewal, TokenVerbs, FollowVerbs, MembershipVerbs, PresenceVerbs, CallVerbs, JobVerbs, KeyVerbs, NoteVerbs):
    """One client, or one HTTP request of one, and all that it holds.

    Its verbs are in the modules beside this one, a module for each part of the
    core; ``client.Client`` has its attributes, what it is and its end.

    Args:
        parts: of the core.
        dialect: that it speaks.
        address: where it comes from.
    """

    __slots__ = ()
