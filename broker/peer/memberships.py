"""The verbs of memberships: subscriptions that are stored under a member's name."""

from __future__ import annotations

from typing import cast

from twisted.logger import Logger

from broker.core.memberships import Session
from broker.core.owners import MEMBER
from broker.errors import Denied, Gone, Invalid, RateLimited
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
        session = cast(Session, self)  # every client is a whole peer
        await memberships.enter(member, session)
        try:
            await self._keep_joined(member)
            if self.closed:
                raise Gone("lost", "session")
        except BaseException:  # to be cancelled is one
            memberships.exit(member, session)
            raise
        before, self.member = self.member, member
        if before:
            if before != member:
                self.part_all()
            memberships.exit(before, session)
        # As it is now: some may have been left while this went on.
        for topic in memberships.topics_of(member):
            self._rejoin(topic)
        await self.listening()
        return self._joined()

    async def _keep_joined(self, member: str) -> None:
        """Make memberships of *member* of what was joined as nobody, also while this goes on."""
        memberships, session = self._parts.memberships, cast(Session, self)
        while not (self.member or self.closed):
            known = set(memberships.topics_of(member))
            new = [topic for topic in self._joined() if topic not in known]
            if not new:
                return
            for topic in new:
                if self.joined(topic):  # else it was left meanwhile
                    await memberships.join(member, session, topic, joined=True, quota=self._memberships())
                    if not self.joined(topic):
                        await memberships.leave(member, topic)

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
        if self.member:
            memberships, session = self._parts.memberships, cast(Session, self)
            await memberships.join(self.member, session, topic, joined=joined, quota=self._memberships())
        await self.listening()

    async def part(self, topic: str, *, rate_limited: bool = True) -> None:
        """See ``IPeer.part``."""
        self._allow("part", topic, rate_limited=rate_limited, check_permission=False)
        if self.member:
            # It unsubscribes all sessions, but for those that have joined again meanwhile.
            await self._parts.memberships.leave(self.member, topic)
        else:
            self.unsubscribe(topic, exact=True)

    def part_all(self) -> None:
        """See ``IPeer.part_all``."""
        for topic, exact in list(self._topics or ()):
            self.unsubscribe(topic, exact=exact)

    def joined(self, topic: str) -> bool:
        """See ``IPeer.joined``."""
        return self._topics is not None and (topic, True) in self._topics
