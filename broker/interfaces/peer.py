"""The client API of the broker."""

from __future__ import annotations

from broker.interfaces.calls import ICallVerbs
from broker.interfaces.client import IClient
from broker.interfaces.credentials import ICredentialVerbs
from broker.interfaces.history import IHistoryVerbs
from broker.interfaces.jobs import IJobVerbs
from broker.interfaces.keys import IKeyVerbs
from broker.interfaces.memberships import IMembershipVerbs
from broker.interfaces.topics import ITopicVerbs


class IPeer(
    IClient,
    ICredentialVerbs,
    ITopicVerbs,
    IHistoryVerbs,
    IMembershipVerbs,
    ICallVerbs,
    IJobVerbs,
    IKeyVerbs,
):
    """One client, or one HTTP request of one: the client API of the broker.

    A dialect is handed one for each client and asks for everything by it.  What
    a verb has done is undone when the peer is closed.  None blocks: one that has
    to wait returns a Deferred or a coroutine.

    Any verb may raise these at once, or fail with them later:

    Raises:
        Unauthenticated: the client has shown no credential and must.
        Denied: the client has no permission for this name.
        RateLimited: the client asks too often, or has too much of something.
        Invalid: a name is malformed.
        Gone: the peer is closed.
        Unavailable: the store or the bus is away; nothing has changed.
    """
