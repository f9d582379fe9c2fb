"""A dialect that counts the events of a topic, as an example of settings, metrics and a peer of its own."""

from typing import Any

import attrs
from zope.interface import implementer

from broker.config.options import COUNT, TEXT, option
from broker.interfaces import IHttpDialect, IPeer
from broker.messages import Event, HttpRequest, Response
from broker.plugins import Counter, with_settings
from broker.sessions import BaseSession


@attrs.frozen
class TallySettings:
    topic: str = option(TEXT, "news", "Whose events are counted.")
    step: int = option(COUNT, 1, "What is added for each.")


@implementer(IHttpDialect)
class Tally(BaseSession):
    """The dialect, which is the session of its own peer as well."""

    name, http_paths = "tally", ("/tally",)

    def __init__(self, own: TallySettings) -> None:
        self.own = own
        self.events = Counter("events", "Events that were counted.")
        self.metrics = (self.events,)  # txbroker_tally_events_total in /metrics

    def start(self, peer: IPeer) -> None:
        """Listen, whether there are clients or not."""
        peer.bind(self)
        peer.subscribe(self.own.topic)

    def event(self, event: Event, pattern: str) -> None:
        self.events.value += self.own.step

    async def answer(self, peer: IPeer, request: HttpRequest) -> Response:
        if not peer.admitted:
            peer.identify(request.headers.get("authorization", "").removeprefix("Bearer "))
        return Response(200, b"%d\n" % self.events.value, "text/plain")


@with_settings("tally", TallySettings)
def dialect(settings: Any, own: TallySettings) -> Tally:
    return Tally(own)
