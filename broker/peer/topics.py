"""The verbs of topics: subscribe, publish, and of what is stored: read, long polls, cursors, indices."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

from twisted.internet.defer import Deferred, succeed

from broker.core.indices import Extract
from broker.core.owners import CLIENT_ID, INDEX
from broker.errors import Invalid, RateLimited, Unauthenticated, Unavailable
from broker.interfaces import MAX_PAGE_BYTES
from broker.messages import MAX_TIME, Event, IndexRows, Quota, quota_of
from broker.patterns import check_name, check_pattern, is_pattern
from broker.peer.client import Client

FREE_TOKENS = 8  # of a pattern, on the average of all that a client may subscribe to
# The setting of how many polls may wait, by whether it is that of one client.
POLL_LIMITS = ("TXBROKER_MAX_WAITING_POLLS", "TXBROKER_MAX_WAITING_POLLS_PER_CLIENT")


class TopicVerbs(Client):
    """Subscribe, publish, and read what is stored."""

    __slots__ = ()

    def subscribe(self, topic: str, *, exact: bool = False, echo: bool = False, rate_limited: bool = True) -> None:
        """See ``IPeer.subscribe``."""
        self._allow("subscribe", topic, rate_limited=rate_limited)
        check_name(topic) if exact else check_pattern(topic)
        topics = self._topics
        if topics is None:
            topics = self._topics = {}
        if (topic, exact) not in topics and len(topics) >= self._parts.settings.max_subscriptions:
            raise self._log(RateLimited("limit", "subscriptions"), "subscribe", "TXBROKER_MAX_SUBSCRIPTIONS")
        if not exact and is_pattern(topic):
            self._count_tokens(topics, topic)
        topics[topic, exact] = echo
        self._parts.topics.subscribe(self, topic, exact=exact, echo=echo)

    def _count_tokens(self, topics: Iterable[tuple[str, bool]], pattern: str) -> None:
        """Check that the patterns of this client have few tokens: each may be looked at for each event of others.

        Raises:
            RateLimited: they have too many.
        """
        tokens = pattern.count(".") + 1
        if tokens > FREE_TOKENS:
            tokens += sum(topic.count(".") + 1 for topic, exact in topics if not exact and is_pattern(topic))
            if tokens > FREE_TOKENS * self._parts.settings.max_subscriptions:
                raise self._log(RateLimited("limit", "subscriptions"), "subscribe", "TXBROKER_MAX_SUBSCRIPTIONS")

    async def listening(self) -> None:
        """See ``IPeer.listening``."""
        waiting = self._parts.bus.listening()
        if waiting is not None:
            await waiting
        for settled in (self._parts.cluster.settled(), self._parts.owners.settled(self.identity.client)):
            if settled is not None:
                await settled

    def unsubscribe(self, topic: str, *, exact: bool = False) -> None:
        """See ``IPeer.unsubscribe``."""
        if self._topics is not None and self._topics.pop((topic, exact), None) is not None:
            self._parts.topics.unsubscribe(self, topic, exact=exact)

    @property
    def subscriptions(self) -> list[str]:
        """See ``IPeer.subscriptions``."""
        return [topic for topic, _ in self._topics or ()]

    def publish(
        self,
        topic: str,
        name: str,
        body: bytes | None,
        *,
        time: float = 0.0,
        named: bool = True,
        original: bytes = b"",
    ) -> Deferred[Event]:
        """See ``IPeer.publish``."""
        self._allow("publish", topic)
        self._own("publish", topic)
        event = self._event(topic, name, body, self.client if named else "", time)
        event.original = original
        parts = self._parts
        if parts.channels.is_durable(topic):
            return parts.channels.post(event, self._channels())
        sent = parts.bus.publish(event)
        return succeed(event) if sent is None else sent.addCallback(lambda _: event)

    def post(self, topic: str, name: str, body: bytes | None, *, client: str = "", author: str = "") -> Deferred[Event]:
        """See ``IPeer.post``."""
        self._allow("publish", topic)
        self._own("publish", topic)
        event = self._event(topic, name, body, client or self.client, 0.0)
        event.author = author
        waiting = self._see_to_id(CLIENT_ID, client, "act") if client else None
        post, quota = self._parts.channels.post, self._channels()
        return post(event, quota) if waiting is None else waiting.addCallback(lambda _: post(event, quota))

    def _channels(self) -> Quota:
        return quota_of("channels", self.identity.kind, self.identity.name, self._parts.settings.max_channels)

    def _event(self, topic: str, name: str, body: bytes | None, source: str, time: float) -> Event:
        if time and not 0 < time <= MAX_TIME:
            raise Invalid("time")
        now = time or self._parts.store.wall.time()
        return Event(topic, name, body, source, now, origin=self.id, dialect=self.dialect)

    # What is stored.

    def read(
        self, topic: str, after: int, limit: int, *, max_bytes: int = MAX_PAGE_BYTES, page_bytes: int = 0
    ) -> Deferred[list[Event]]:
        """See ``IPeer.read``."""
        self._allow("read", topic)
        return self._parts.channels.read(self._shown(topic), after, limit, max_bytes, page_bytes)

    def latest(self, topic: str, limit: int, *, max_bytes: int = MAX_PAGE_BYTES) -> Deferred[list[Event]]:
        """See ``IPeer.latest``."""
        self._allow("read", topic)
        return self._parts.channels.latest(self._shown(topic), limit, max_bytes)

    def head(self, topic: str) -> Deferred[int]:
        """See ``IPeer.head``."""
        self._allow("read", topic)
        return self._parts.channels.head(self._shown(topic))

    async def poll(
        self,
        topic: str,
        after: int,
        limit: int,
        timeout: float,
        *,
        max_bytes: int = MAX_PAGE_BYTES,
        page_bytes: int = 0,
    ) -> list[Event]:
        """See ``IPeer.poll``."""
        self._allow("read", topic)
        share, expires = self._share or self._take_share(), self.identity.expires
        if expires:
            # Whole seconds: each other time would need a bucket of deadlines of its own.
            timeout = min(timeout, max(0.0, ceil(expires - self.wall.time())))
        try:
            events = await self._parts.channels.poll(
                self._shown(topic), after, limit, timeout, max_bytes, share, page_bytes
            )
        except RateLimited as error:
            of_client = share.polls >= self._parts.settings.max_waiting_polls_per_client
            raise self._log(error, "poll", POLL_LIMITS[of_client]) from None
        if expires and self.wall.time() >= expires:
            raise Unauthenticated("token", message="The credential has expired")
        return events

    async def cursor(self, client: str, topic: str) -> int:
        """See ``IPeer.cursor``."""
        self._allow("read", topic)
        waiting = self._see_to_id(CLIENT_ID, client, "act")
        if waiting is not None:
            try:
                await waiting
            except Unavailable:
                # That the id is its own now can not be stored, but perhaps read that it is nobody else's.
                checked = self._see_to_id(CLIENT_ID, client, "act", only_check=True)
                if checked is not None:
                    await checked
        return await self._parts.channels.cursor(client, topic)

    def move_cursor(self, client: str, topic: str, id: int) -> Deferred[None]:
        """See ``IPeer.move_cursor``."""
        self._allow("read", topic)
        if id < 0:
            raise Invalid("after")
        quota = quota_of("cursors", self.identity.kind, self.identity.name, self._parts.settings.max_cursors)
        waiting = self._see_to_id(CLIENT_ID, client, "act")
        move = self._parts.channels.move_cursor
        if waiting is None:
            return move(client, topic, id, quota)
        return waiting.addCallback(lambda _: move(client, topic, id, quota))

    async def create_index(self, id: str, topic: str, field: str) -> bool:
        """See ``IPeer.create_index``."""
        self._allow("read", topic)
        self._shown(topic)
        waiting = self._see_to_id(INDEX, id, "act")
        if waiting is not None:
            await waiting
        quota = quota_of("indices", self.identity.kind, self.identity.name, self._parts.settings.max_indices)
        return await self._parts.indices.create(id, topic, field, quota)

    async def read_index(self, id: str, value: str, extract: Extract) -> IndexRows:
        """See ``IPeer.read_index``."""
        self._allow("index", id, check_permission=False)
        topic, _ = await self._parts.indices.definition(id)
        self._allow("read", topic, rate_limited=False)
        await self._parts.owners.extend(INDEX, id)
        return await self._parts.indices.read(id, value, extract)
