"""The reserved methods of topics: subscribe and unsubscribe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import BrokerError
from protocols.owlmeans.methods import Answer, Method, Names, Options, distinct

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session


class Echo(Options):
    """Whether a subscriber gets its own events too."""

    echo: bool = False


class Subscribe(Method):
    """Subscribe to names and patterns: all of them or none."""

    called = "subscribe"
    pattern: Names
    options: Echo | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with all subscriptions of the session."""
        peer = session.peer
        echo = self.options is not None and self.options.echo
        before = set(peer.subscriptions)
        added: list[str] = []
        try:
            for pattern in distinct(self.pattern):
                peer.subscribe(pattern, echo=echo, rate_limited=not added)
                added.append(pattern)
        except BrokerError:
            for pattern in added:
                if pattern not in before:
                    peer.unsubscribe(pattern)
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
            session.peer.unsubscribe(pattern)
        return {"subscribed": session.peer.subscriptions}


TOPIC_METHODS = (Subscribe, Unsubscribe)
