"""The parts of the core, by which a peer does what its verbs say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.interfaces import IReactorTime

from broker.core.about import About
from broker.core.calls import Calls
from broker.core.channels import Channels
from broker.core.cursors import Cursors
from broker.core.followers import Followers
from broker.core.indices import Indices
from broker.core.jobs import Jobs
from broker.core.keys import Keys
from broker.core.mailboxes import Mailboxes
from broker.core.members import Members
from broker.core.memberships import Memberships
from broker.core.memory import Memory
from broker.core.names import LocalNames
from broker.core.owners import Owners
from broker.core.presence import Presence
from broker.core.queues import Queues
from broker.core.retained import Retained
from broker.core.shares import Shares
from broker.core.testaments import Testaments
from broker.core.topics import Topics
from broker.interfaces import IBus, IStore

if TYPE_CHECKING:
    from broker.access.failures import AuthFailures
    from broker.access.lifetimes import Lifetimes
    from broker.access.limits import Buckets
    from broker.access.principals import Access
    from broker.access.refusals import RefusalLog
    from broker.access.tokens import Tokens
    from broker.config.settings import Settings
    from broker.observe.metrics import Metrics


@attrs.define(eq=False)
class Parts:
    """What a peer is handed; ``service.make_parts`` joins them.

    Attributes:
        settings: the limits and times.
        store: keeps what is stored.
        bus: carries what is published.
        clock: for timers, and for how long something takes.
        access: knows the credentials.
        metrics: counts.
        buckets: how often each client may ask.
        lifetimes: how long each may stay.
        shares: what each client has of that which all have together.
        refusals: logs what is refused.
        failures: how often each address may show a wrong credential.
        cluster: the names that this node holds among the nodes.
        about: what the daemon is.
        memory: what clients make it hold.
    """

    settings: Settings
    store: IStore
    bus: IBus
    clock: IReactorTime
    access: Access
    metrics: Metrics
    buckets: Buckets
    lifetimes: Lifetimes
    shares: Shares
    refusals: RefusalLog
    failures: AuthFailures
    tokens: Tokens
    topics: Topics
    channels: Channels
    cursors: Cursors
    followers: Followers
    indices: Indices
    retained: Retained
    testaments: Testaments
    keys: Keys
    members: Members
    memberships: Memberships
    owners: Owners
    presence: Presence[Any]  # of peers
    calls: Calls
    queues: Queues
    jobs: Jobs
    mailboxes: Mailboxes
    cluster: LocalNames
    about: About
    memory: Memory
