"""The contracts between dialects, transports, the core, stores and buses.

A dialect implements one or more of :class:`IWebSocketDialect`, :class:`IHttpDialect` and :class:`IStreamDialect`,
and makes an :class:`ISession` for each connection.  It asks for everything by
an :class:`IPeer` and sends by an :class:`ILink`.  Stores and buses implement
:class:`IStore` and :class:`IBus`; their contracts are stated here and checked by one suite for all of them
(``tests/stores/store_contract.py``, ``tests/buses/bus_contract.py``).
"""

from broker.interfaces.buses import IBus, IEventSource, ISharedBus
from broker.interfaces.calls import ICallVerbs
from broker.interfaces.client import IClient
from broker.interfaces.clocks import IWallClock
from broker.interfaces.coroutines import Coro
from broker.interfaces.credentials import ICredentialVerbs
from broker.interfaces.dialects import IDialectExtras, IHttpDialect, IStreamDialect, IWebSocketDialect
from broker.interfaces.history import IHistoryVerbs
from broker.interfaces.jobs import IJobVerbs
from broker.interfaces.keys import IKeyVerbs
from broker.interfaces.links import ILink
from broker.interfaces.memberships import IMembershipVerbs
from broker.interfaces.peer import IPeer
from broker.interfaces.sessions import IFollower, ISession, IStreamSession
from broker.interfaces.stores import MAX_PAGE_BYTES, ISharedStore, IStore
from broker.interfaces.topics import MAX_PUBLICATIONS, ITopicVerbs

__all__ = [
    "MAX_PAGE_BYTES",
    "MAX_PUBLICATIONS",
    "Coro",
    "IBus",
    "ICallVerbs",
    "IClient",
    "ICredentialVerbs",
    "IDialectExtras",
    "IEventSource",
    "IFollower",
    "IHistoryVerbs",
    "IHttpDialect",
    "IJobVerbs",
    "IKeyVerbs",
    "ILink",
    "IMembershipVerbs",
    "IPeer",
    "ISession",
    "ISharedBus",
    "ISharedStore",
    "IStore",
    "IStreamDialect",
    "IStreamSession",
    "ITopicVerbs",
    "IWallClock",
    "IWebSocketDialect",
]
