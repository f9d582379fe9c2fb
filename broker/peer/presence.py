"""The verbs of presence: to be seen on a topic, to see who is there, and what is left behind."""

from __future__ import annotations

from broker.core.members import Member
from broker.core.testaments import Testament
from broker.errors import Gone, NotFound, TooLarge
from broker.messages import quota_of
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

    async def set_testament(self, topic: str, name: str, body: bytes | None, *, retain: bool = False) -> None:
        """See ``IPeer.set_testament``."""
        self._allow("publish", topic)
        self._own("publish", topic)
        settings, identity = self._parts.settings, self.identity
        quota = quota_of("testaments", identity.kind, identity.name, settings.max_channels)
        testament = Testament(topic, name, body, self.client, retain)
        await self._parts.testaments.keep(self.id, testament, quota)
        if self.closed:
            self._parts.testaments.execute(self.id, testament)
            raise Gone("lost", "session")
        self._forget_testament()
        self._testament = testament
        self.hold(TESTAMENT_BYTES + len(body or b""))

    def drop_testament(self) -> None:
        """See ``IPeer.drop_testament``."""
        if self._testament is not None:
            self._forget_testament()
            self._parts.testaments.drop(self.id)

    def _forget_testament(self) -> None:
        testament, self._testament = self._testament, None
        if testament is not None:
            self.hold(-TESTAMENT_BYTES - len(testament.body or b""))

    def members(self, topic: str, *, rate_limited: bool = True) -> list[Member]:
        """See ``IPeer.members``."""
        self._allow("subscribe", topic, rate_limited=rate_limited, check_permission=False)
        check_name(topic)
        if not self._may_name("subscribe", topic):
            raise self.deny("subscribe", topic)
        return self._parts.members.of(topic)
