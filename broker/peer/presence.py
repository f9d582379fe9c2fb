"""The verbs of presence: to be seen on a topic, to see who is there, and what is left behind."""

from __future__ import annotations

from broker.core.members import Member, MemberPage
from broker.core.testaments import Left, Testament
from broker.errors import Gone, Invalid, NotFound, TooLarge
from broker.messages import Event, Quota, quota_of
from broker.patterns import check_name
from broker.peer.topics import TopicVerbs

TESTAMENT_BYTES = 1000  # that one costs besides its body
MAX_INFO = 4096  # bytes that a client may say of itself on one topic
MAX_MEMBERS = 1000  # of one page


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

    async def set_testament(
        self,
        topic: str,
        name: str,
        body: bytes | None,
        *,
        retain: bool = False,
        content_type: str = "",
        is_json: bool | None = None,
    ) -> None:
        """See ``IPeer.set_testament``."""
        self._allow("publish", topic)
        self._own("publish", topic)
        event = Event(topic, name, body)
        self._describe(event, content_type, 0.0, is_json)
        testament = Testament(topic, name, body, self.client, retain, "", event.content_type, event.binary)
        left = self._left = self._left or Left()
        number = left.begin()
        await self._parts.testaments.keep(self.id, testament, self._testaments())
        if self.closed:
            if left.dropped < number:  # it has not said goodbye meanwhile
                self._parts.testaments.execute(self.id)
            raise Gone("lost", "session")
        if not left.is_over(number):
            self._hold_testament(left, testament, number)

    async def keep_testament(self) -> None:
        """Store its testament again: the store has lost it."""
        left = self._left
        if left is not None and left.kept is not None:
            await self._parts.testaments.keep(self.id, left.kept, self._testaments())

    def _testaments(self) -> Quota:
        identity = self.identity
        return quota_of("testaments", identity.kind, identity.name, self._parts.settings.max_channels)

    def drop_testament(self) -> None:
        """See ``IPeer.drop_testament``."""
        left = self._left
        if left is not None and left.dropped < left.changes:
            number = left.dropped = left.begin()
            self._hold_testament(left, None, number)
            self._parts.testaments.drop(self.id, lambda: left.changes == number)

    def _hold_testament(self, left: Left, testament: Testament | None, number: int) -> None:
        before, left.kept, left.number = left.kept, testament, number
        self.hold(_size(testament) - _size(before))

    def members(self, topic: str, *, rate_limited: bool = True) -> list[Member]:
        """See ``IPeer.members``."""
        self._check_members(topic, rate_limited)
        return self._parts.members.of(topic)

    def page_of_members(self, topic: str, after: str, limit: int) -> MemberPage:
        """See ``IPeer.page_of_members``."""
        self._check_members(topic)
        if not 0 < limit <= MAX_MEMBERS:
            raise Invalid("limit")
        return self._parts.members.page(topic, after, limit)

    def _check_members(self, topic: str, rate_limited: bool = True) -> None:
        self._allow("subscribe", topic, rate_limited=rate_limited, check_permission=False)
        check_name(topic)
        if not self._may_name("subscribe", topic):
            raise self.deny("subscribe", topic)


def _size(testament: Testament | None) -> int:
    return 0 if testament is None else TESTAMENT_BYTES + len(testament.body or b"")
