"""The reserved methods of topics: subscribe and unsubscribe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import BrokerError
from protocols.owlmeans.methods import Answer, Method, Names, Options, distinct

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session


class Subscription(Options):
    """What a subscriber wants.

    Attributes:
        echo: its own events too.
        exact: wildcards to be ordinary characters.
    """

    echo: bool = False
    exact: bool = False


class Subscribe(Method):
    """Subscribe to names and patterns: all of them or none."""

    called = "subscribe"
    pattern: Names
    options: Subscription | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with all subscriptions of the session."""
        peer, options = session.peer, self.options or Subscription()
        before = set(peer.subscriptions)
        added: list[str] = []
        try:
            for pattern in distinct(self.pattern):
                peer.subscribe(pattern, exact=options.exact, echo=options.echo, rate_limited=not added)
                added.append(pattern)
        except BrokerError:
            for pattern in added:
                if pattern not in before:
                    peer.unsubscribe(pattern, exact=options.exact)
            raise
        await peer.listening()
        return {"subscribed": peer.subscriptions}


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


TOPIC_METHODS = (Subscribe, Unsubscribe)
