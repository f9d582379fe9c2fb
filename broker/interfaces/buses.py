"""How nodes reach each other."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from broker.messages import Event


class IBus(IService):
    """Carries events and service names between nodes; alone, within one.

    ``deliver`` is set by the service before start.
    """

    node: str = Attribute("The name of this node, unique among those that share the bus.")
    shared: bool = Attribute("Whether there may be other nodes.")
    ready: str = Attribute("Why events can not be carried now; '' when they can.")
    deliver: Callable[[Event], object] = Attribute("Called with each event that arrives.")

    def publish(event: Event) -> Deferred[None] | None:
        """Give *event* to every node that listens, this one included.

        Events of one caller on one topic arrive in order.  Live events (id 0)
        arrive at most once; stored ones at least once, in the order of their ids, for as
        long as somebody listens.  On a local bus they have arrived when this returns.
        """

    def listen(topic: str, *, prefix: bool = False) -> None:
        """Begin to receive events of *topic*, a name or a pattern.  Counted.

        With *prefix*, it is what the topics begin with.  Events of other topics may come, too.
        """

    def forget(topic: str, *, prefix: bool = False) -> None:
        """Undo one ``listen``."""

    def listening() -> Deferred[None] | None:
        """Fire when all ``listen`` so far are in force for every node, or that takes too long.

        What is stored from then on comes in either case, perhaps late; unless this node has had no contact yet,
        see ``ISharedBus.missed``.
        None: they are already.
        """

    def claim(name: str, *, shared: bool = False) -> Deferred[None]:
        """Hold *name* for this node until ``release``; repeated claims are fine.

        With *shared*, together with other nodes that share it.

        Raises:
            Taken: another living node holds it, and not both share.
        """

    def release(name: str) -> object:
        """Give *name* back."""


class IEventSource(Interface):
    """Where a bus finds the stored events that it has missed; see ``ISharedStore``."""

    epoch: str = Attribute("That of the events that it reads; changes when everything was lost.")

    server: str = Attribute("That of the store, when ``mark`` has answered; see ``ISharedStore``.")

    def mark() -> Deferred[int]:
        """Return the present mark."""

    def changes(mark: int) -> Deferred[dict[str, int]]:
        """Return the topics that have got events after *mark*, each with the mark of the last time."""

    def since(topic: str, mark: int) -> Deferred[int]:
        """Return the id of the first event of *topic* after *mark*; 0 for none."""

    def read(topic: str, after: int, limit: int, max_bytes: int = 0) -> Deferred[list[Event]]:
        """Return at most *limit* events with id > *after*, in rising order; *max_bytes* as in ``IStore.read``."""

    kept: int = Attribute("The mark up to which what the node has received of it is still there; see ``ISharedStore``.")

    def publishes(origin: str) -> bool:
        """Whether an event of that *origin* is being stored: its publisher is to be answered before it is delivered."""

    def on_answer(call: Callable[[], object]) -> None:
        """Let *call* be called once, when such publishers were answered; idempotent until then."""


class ISharedBus(IBus):
    """What a bus between several nodes offers besides.

    A node has an *address* of its own at each start, and a *lease* with a number, which it renews.  It holds
    names under the number of its lease: when that ends, they are free for others, and nobody can take one from a
    node that has a lease.  It gets another, higher number with each new lease.  A node takes its own lease for
    ended before the others do: so no two nodes hold a name that is not shared, however long one of them was frozen
    or cut off.  Whatever is done by a node whose lease has ended is refused (``NotDone``).

    The callbacks below are set by the service before start.
    """

    address: str = Attribute("Where other nodes reach this one.")
    source: IEventSource = Attribute("Where missed events are read.")
    lease: int = Attribute("The number of this node's lease; 0 while it has none.")
    lease_seconds: float = Attribute("How long a lease lasts that is not renewed.  The others know a second later.")
    unbroken_since: int = Attribute(
        "The number of the first of this node's leases since which it has always had one: no other node can have got "
        "what it has held since that one."
    )
    nodes: list[str] = Attribute(
        "The names of the nodes that have a lease, this one included, as far as it knows; none while it has no lease."
    )
    others: list[str] = Attribute("The addresses of the other nodes that have a lease, as far as it knows.")
    received: Callable[[str, bytes], object] = Attribute("Called with the address of a node and its message.")
    missed: Callable[[list[str]], object] = Attribute(
        "Called, when there is contact for the first time, with the topics, patterns and beginnings to which somebody "
        "began to listen too long before: what was stored on them until now may be missed."
    )
    found: Callable[[str], object] = Attribute(
        "Called, after names may have been forgotten, with each that this node holds as far as the others know: it may "
        "have given it back, and that was forgotten too."
    )
    departed: Callable[[str], object] = Attribute(
        "Called with the address of a node whose lease has ended; one that comes back under a new number departs "
        "first.  Also with that of a node that may have missed messages, be it this one."
    )
    lapsed: Callable[[], object] = Attribute("Called when this node's lease has ended: it holds no names any more.")
    leased: Callable[[], object] = Attribute(
        "Called when this node has a new lease, so that all names are to be claimed again; under the same "
        "number, too, when names may have been forgotten."
    )

    def wiped() -> None:
        """Begin anew: the source has lost everything after its mark ``kept``."""

    def last_mark(epoch: str, server: str) -> int:
        """Return the mark of the last stored event of *epoch* that has arrived from *server*, see ``ISharedStore``.

        0: none has, or its mark is not known.  As messages come in the order of their marks, none is higher.
        """

    def received_all() -> Deferred[None]:
        """Fire when all that this node listens to and that was published before now has arrived.

        Raises:
            Unavailable: it is not connected, or was not all the while.
        """

    def lease_of(address: str) -> int:
        """Return the number of the lease of that node, as far as this one knows; 0 for none."""

    def lives(address: str) -> bool:
        """Whether that node has a lease, as far as this one knows."""

    def may_live(address: str) -> Deferred[bool]:
        """Return whether that node has a lease, though it be new, or is still expected to renew one that has ended.

        That is so for a while after a time in which no node could renew its lease.
        """

    def send(address: str, message: bytes) -> Deferred[bool]:
        """Send *message* to one node, at most once, from this node's lease to that node's.

        It fires with True when that node listens and was handed the message, and with False when the message was
        surely not sent: that node has no lease or does not listen, this one has none, or
        nothing can be sent now.  What arrives at a node whose lease has ended meanwhile is dropped there.

        Raises:
            Unavailable: it is not known whether the message was sent.
        """

    def holders(names: Sequence[str]) -> Deferred[tuple[str, list[str]]]:
        """Return the first of *names* that is held, and the addresses of its holders; "" and none.

        After a time in which no node could renew its lease, there may be some among them that have no lease at the
        moment, and are waited for.

        Raises:
            NotDone: this node has no lease, or, with ``retry_after``, nobody is known to hold one of them, but nodes
                may be about to claim them again.
        """

    def claim(name: str, *, shared: bool = False) -> Deferred[None]:
        """See ``IBus.claim``; claims of a node and its releases take effect in their order.

        Raises:
            Taken: another node holds it, and not both share.
            NotDone: this node has no lease, or, with ``retry_after``, nodes that hold names are waited for.
            Unavailable: it is not known whether it was claimed.
        """

    def claim_all(names: Mapping[str, bool], new: Container[str] = ()) -> Deferred[dict[str, str]]:
        """Claim names that this node has held, each with whether it is shared; one operation for some hundreds.

        Those that are in *new*, too, it may not have held all the while: another node may hold them, although the
        server does not know it.

        Return those that were refused, each with the address of a holder; "" when it can not be had yet, and is
        to be claimed again.  When it fails, some may have been claimed.
        """

    def release(*names: str) -> Deferred[bool]:
        """Give *names* back, some hundreds at most; fire with whether this node surely holds none of them any more.

        It does not fail.
        """
