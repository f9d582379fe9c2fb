"""The reserved methods of topics: subscribe and unsubscribe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.errors import BrokerError
from broker.interfaces import IPeer
from protocols.owlmeans.history_methods import follow, is_one_topic, origin_of, starts_of
from protocols.owlmeans.methods import Answer, Method, Names, Options, distinct

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session


class SubscribeOptions(Options, rename={"origin": "from"}):
    """How to subscribe.

    Attributes:
        echo: whether the subscriber gets its own events too.
        exact: whether wildcards are ordinary characters.
        origin: where to begin: a position, ``start``, ``new``, or for a pattern a position by topic.
        cursor: the client id after whose last acknowledged event to begin; "": none.
    """

    echo: bool = False
    exact: bool = False
    origin: str | int | dict[str, Any] | None = None
    cursor: str = ""


class Subscribe(Method, dict=True):
    """Subscribe to names and patterns, all of them or none; with ``from`` or ``cursor``, from a position on."""

    called = "subscribe"
    pattern: Names
    options: SubscribeOptions | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with all subscriptions of the session, and with where one from a position begins."""
        peer, options = session.peer, self.options or SubscribeOptions()
        topics, exact = distinct(self.pattern), options.exact
        if options.origin is None and not options.cursor:
            await _subscribe(peer, topics, exact=exact, echo=options.echo)
            return {"subscribed": peer.subscriptions}
        origin = None
        if options.origin is not None:
            origin = origin_of(options.origin, topics, peer.epoch, exact=exact)
        self.followers = await follow(session, topics, origin, cursor=options.cursor, exact=exact, echo=options.echo)
        begun = starts_of(self.followers, peer.epoch, one=is_one_topic(topics, exact=exact))
        return {"subscribed": peer.subscriptions, **begun}

    def sent(self, session: Session) -> None:
        """Let the events follow."""
        for follower in getattr(self, "followers", ()):
            follower.start()


class Unsubscribe(Method):
    """Unsubscribe from names and patterns; a no-op for those not subscribed to."""

    called = "unsubscribe"
    pattern: Names

    async def run(self, session: Session) -> Answer:
        """Answer with the subscriptions that are left."""
        for pattern in distinct(self.pattern):
            for exact in (False, True):
                session.peer.unsubscribe(pattern, exact=exact)
        return {"subscribed": session.peer.subscriptions}


async def _subscribe(peer: IPeer, topics: list[str], *, exact: bool, echo: bool) -> None:
    """Subscribe to all of *topics* or none."""
    before = set(peer.subscriptions)
    added: list[str] = []
    try:
        for topic in topics:
            peer.subscribe(topic, exact=exact, echo=echo, rate_limited=not added)
            added.append(topic)
    except BrokerError:
        for topic in added:
            if topic not in before:
                peer.unsubscribe(topic, exact=exact)
        raise
    await peer.listening()


TOPIC_METHODS = (Subscribe, Unsubscribe)
