"""The verbs of presence: to be seen on a topic, to see who is there, and what is left behind."""

from __future__ import annotations

from broker.core.members import Member
from broker.errors import NotFound, TooLarge
from broker.patterns import check_name
from broker.peer.topics import TopicVerbs

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
        self.hold(-self._parts.members.exit(topic, self.id))

    def members(self, topic: str, *, rate_limited: bool = True) -> list[Member]:
        """See ``IPeer.members``."""
        self._allow("subscribe", topic, rate_limited=rate_limited, check_permission=False)
        check_name(topic)
        if not self._may_name("subscribe", topic):
            raise self.deny("subscribe", topic)
        return self._parts.members.of(topic)
