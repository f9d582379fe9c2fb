"""The verbs of memberships: subscriptions that are stored under a member's name."""

from __future__ import annotations

from twisted.logger import Logger

from broker.core.owners import MEMBER
from broker.errors import BrokerError, Denied, Gone, Invalid, RateLimited
from broker.messages import Quota, quota_of
from broker.peer.ids import IdVerbs
from broker.peer.topics import TopicVerbs

log = Logger()


class MembershipVerbs(TopicVerbs, IdVerbs):
    """Join topics until they are left."""

    __slots__ = ()

    async def become(self, member: str) -> list[str]:
        """See ``IPeer.become``."""
        self._allow("join", member, check_permission=False)
        waiting = self._see_to_id(MEMBER, member, "join")
        if waiting is not None:
            await waiting
        memberships, member = self._parts.memberships, f"{self.dialect}:{member}"
        topics = await memberships.enter(member, self)
        try:
            for topic in [] if self.member else self._joined():
                await memberships.join(member, topic, again=True, quota=self._memberships())
            if self.closed:
                raise Gone("lost", "session")
        except BrokerError:
            if member != self.member:
                memberships.exit(member, self)
            raise
        if self.member and self.member != member:
            self.part_all()
            memberships.exit(self.member, self)
        self.member = member
        for topic in topics:
            self._rejoin(topic)
        await self.listening()
        return self._joined()

    def _memberships(self) -> Quota:
        return quota_of("memberships", self.identity.kind, self.identity.name, self._parts.settings.max_memberships)

    def _joined(self) -> list[str]:
        return [topic for topic, exact in self._topics or () if exact]

    def _rejoin(self, topic: str) -> None:
        try:
            self.subscribe(topic, exact=True, echo=True, rate_limited=False)
        except (Denied, Invalid, RateLimited) as error:
            log.info("a membership of {peer} was left out: {code}", peer=self.id, code=error.code)

    async def join(self, topic: str, *, rate_limited: bool = True) -> None:
        """See ``IPeer.join``."""
        joined = self.joined(topic)
        self.subscribe(topic, exact=True, echo=True, rate_limited=rate_limited)
        try:
            if self.member:
                await self._parts.memberships.join(self.member, topic, again=joined, quota=self._memberships())
        except BrokerError:
            if not joined:
                self.unsubscribe(topic, exact=True)
            raise
        if not self.closed and not self.joined(topic):  # another session of the member left it just before
            self._rejoin(topic)
        await self.listening()

    async def part(self, topic: str, *, rate_limited: bool = True) -> None:
        """See ``IPeer.part``."""
        self._allow("part", topic, rate_limited=rate_limited, check_permission=False)
        if self.member:
            await self._parts.memberships.leave(self.member, topic)
        self.unsubscribe(topic, exact=True)

    def part_all(self) -> None:
        """See ``IPeer.part_all``."""
        for topic, exact in list(self._topics or ()):
            self.unsubscribe(topic, exact=exact)

    def joined(self, topic: str) -> bool:
        """See ``IPeer.joined``."""
        return self._topics is not None and (topic, True) in self._topics
