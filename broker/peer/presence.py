"""The verbs of presence: to be seen on a topic, to see who is there, and what is left behind."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import Deferred

from broker.core.channels import event_lost
from broker.core.members import Member
from broker.errors import NotFound, TooLarge
from broker.messages import Event
from broker.patterns import check_name
from broker.peer.topics import TopicVerbs

TESTAMENT_BYTES = 1000  # that one costs besides its body
MAX_INFO = 4096  # bytes that a client may say of itself on one topic


class PresenceVerbs(TopicVerbs):
    """Be present on topics it has subscribed to."""

    __slots__ = ()

    def enter(self, topic: str, info: bytes = b"") -> None:
        """See ``IPeer.enter``."""
        self._own("subscribe", topic)
        if len(info) > MAX_INFO:
            raise TooLarge("presence")
        if not any((topic, exact) in (self._topics or ()) for exact in (False, True)):
            raise NotFound("subscription", topic)
        self.hold(self._parts.members.enter(topic, self.client, self.id, info))

    def exit(self, topic: str) -> None:
        """See ``IPeer.exit``."""
        freed = self._parts.members.exit(topic, self.id)
        if freed:
            self.hold(-freed)

    def set_testament(self, topic: str, name: str, body: bytes | None, *, retain: bool = False) -> None:
        """See ``IPeer.set_testament``."""
        self._allow("publish", topic)
        self._own("publish", topic)
        event = self._event(topic, name, body, self.client, 0.0)
        self.drop_testament()
        self._testament = partial(self._execute, event, retain)
        self.hold(TESTAMENT_BYTES + len(body or b""))

    def drop_testament(self) -> None:
        """See ``IPeer.drop_testament``."""
        testament, self._testament = self._testament, None
        if isinstance(testament, partial):
            self.hold(-TESTAMENT_BYTES - len(testament.args[0].body or b""))

    def _execute(self, event: Event, retain: bool) -> None:
        """Publish *event*, which this peer has left behind."""
        event.source, event.time = self.client, self._parts.store.wall.time()
        published = Deferred.fromCoroutine(self._publish_left(event, retain))
        published.addErrback(event_lost, event.topic)

    async def _publish_left(self, event: Event, retain: bool) -> None:
        channels, retained = self._parts.channels, self._parts.retained
        if channels.is_durable(event.topic):
            await channels.post(event, self._channels())
        elif retain or retained.applies(event.topic):
            await self._retain(event)
        else:
            sent = self._parts.bus.publish(event)
            if sent is not None:
                await sent

    def members(self, topic: str, *, rate_limited: bool = True) -> list[Member]:
        """See ``IPeer.members``."""
        self._allow("subscribe", topic, rate_limited=rate_limited, check_permission=False)
        check_name(topic)
        if not self._may_name("subscribe", topic):
            raise self.deny("subscribe", topic)
        return self._parts.members.of(topic)
