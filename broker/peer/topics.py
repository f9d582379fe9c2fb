"""The verbs of topics: subscribe, publish, and of what is stored: read, long polls, cursors, indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import TypeVar

from twisted.internet.defer import Deferred, succeed

from broker.core.followers import Follower
from broker.core.indices import Extract
from broker.core.owners import CLIENT_ID, INDEX
from broker.core.time_limits import cancellable
from broker.errors import Invalid, RateLimited, TooLarge, Unauthenticated, Unavailable
from broker.interfaces import MAX_PAGE_BYTES, MAX_PUBLICATIONS
from broker.jsontext import is_json_type
from broker.messages import (
    MAX_EXPIRY,
    MAX_ID,
    MAX_TIME,
    Addition,
    Event,
    IndexRows,
    Position,
    Publication,
    Quota,
    quota_of,
)
from broker.patterns import LOG_PREFIX, PRESENCE_PREFIX, check_name, check_pattern, is_pattern, pattern_tokens
from broker.peer.client import Client

T = TypeVar("T")

MAX_EXCLUDED = 1000  # names of one event
NOT_STORED = "a key, or an expected head, needs an event that is stored: durable, or of a durable topic"
FREE_TOKENS = 8  # of a pattern, on the average of all that a client may subscribe to

OCTETS = "application/octet-stream"  # what is known of a body of which nothing is said but that it is no JSON


class TopicVerbs(Client):
    """Subscribe, publish, and read what is stored."""

    __slots__ = ()

    def subscribe(self, topic: str, *, exact: bool = False, echo: bool = False, rate_limited: bool = True) -> None:
        """See ``IPeer.subscribe``."""
        self._allow_to_subscribe(topic, exact=exact, rate_limited=rate_limited)
        self._check_room(topic, exact)
        held = self._topics.get((topic, exact)) if self._topics else None
        if isinstance(held, Follower):
            held.echo = echo
            return
        self._keep_subscription(topic, exact, echo)
        self._parts.topics.subscribe(self, topic, exact=exact, echo=echo)

    def _allow_to_subscribe(self, topic: str, *, exact: bool, rate_limited: bool) -> None:
        """Check that *topic* is well formed, and that the client may subscribe to it; see ``_allow``."""
        plain = exact and is_pattern(topic)
        asked = topic.removeprefix(PRESENCE_PREFIX)  # who may not subscribe to a topic may not see who has
        self._allow("subscribe", asked, rate_limited=rate_limited, check_permission=not plain)
        check_name(topic) if exact else check_pattern(topic)
        if plain and not self._may_name("subscribe", asked):
            raise self.deny("subscribe", asked)

    def _check_room(self, topic: str, exact: bool) -> None:
        """Check that the client may have one subscription more, of *topic*, unless it has that already.

        The patterns of a client have few tokens, as each may be looked at for each event of others.

        Raises:
            RateLimited: there are too many, or their patterns have too many tokens.
        """
        topics, limit = self._topics or {}, self._parts.settings.max_subscriptions
        if (topic, exact) in topics:
            return
        beginning = len(self._beginning) if self._beginning else 0
        tokens = pattern_tokens(topic, exact)
        if len(topics) + beginning >= limit or (tokens > FREE_TOKENS and tokens + self._tokens > FREE_TOKENS * limit):
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
        self._end_subscription(topic, exact)
        freed = self._parts.members.exit(topic, self.id)
        if freed:
            self.hold(-freed)
        for follower in list(self._beginning or ()):
            if (follower.topic, follower.exact) == (topic, exact):
                follower.stop()

    def _keep_subscription(self, topic: str, exact: bool, held: bool | Follower) -> None:
        topics = self._topics
        if topics is None:
            topics = self._topics = {}
        if (topic, exact) not in topics:
            self._tokens += pattern_tokens(topic, exact)
        topics[topic, exact] = held

    def _end_subscription(self, topic: str, exact: bool) -> None:
        held = None if self._topics is None else self._topics.pop((topic, exact), None)
        if held is not None:
            self._tokens -= pattern_tokens(topic, exact)
        if isinstance(held, Follower):
            held.stop()
        elif held is not None:
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
        durable: bool = False,
        key: str = "",
        expect: int | None = None,
        content_type: str = "",
        expires: float = 0.0,
        exclude: Sequence[str] = (),
        retain: bool = False,
        is_json: bool | None = None,
    ) -> Deferred[Event]:
        """See ``IPeer.publish``."""
        self._allow("publish", topic)
        self._own("publish", topic)
        event = self._event(topic, name, body, self.client if named else "", time)
        event.original = original
        if content_type or expires or is_json is False:
            self._describe(event, content_type, expires, is_json)
        if exclude:
            event.exclude = _checked_names(exclude)
        parts, sampler = self._parts, self._verbs.publish
        sampler.left -= 1
        done = None if sampler.left else sampler.publishes()
        if durable or parts.channels.is_durable(topic):
            if key or expect is not None:
                posted = parts.channels.post(event, self._channels(), self._own_key(key), _checked_head(expect))
            else:
                posted = parts.channels.post(event, self._channels())
            return posted if done is None else posted.addCallback(_noted, done)
        if key or expect is not None:
            raise Invalid("key" if key else "expect", message=NOT_STORED)
        if retain or (parts.retained.patterns and parts.retained.applies(topic)):
            return Deferred.fromCoroutine(self._retain(event)).addCallback(_noted, done)
        sent = parts.bus.publish(event)
        if done is not None:
            sent = succeed(None) if sent is None else sent
            sent.addCallback(done)
        return succeed(event) if sent is None else sent.addCallback(lambda _: event)

    async def _retain(self, event: Event) -> Event:
        """Publish *event* when it is kept as the last one of its topic."""
        settings, identity = self._parts.settings, self.identity
        quota = quota_of("retained", identity.kind, identity.name, settings.max_channels)
        await self._parts.retained.keep(event, quota)
        sent = self._parts.bus.publish(event)
        if sent is not None:
            await sent
        return event

    async def last(self, topic: str, limit: int = 1) -> list[Event]:
        """See ``IPeer.last``."""
        self._allow("subscribe", topic, rate_limited=False, check_permission=False)
        if not self._may_name("subscribe", topic):
            raise self.deny("subscribe", topic)
        parts, events = self._parts, []
        async with self._reading("subscribe", "events"):
            if self._may_name("read", topic):
                events = await parts.channels.latest(self._shown(topic), limit)
            kept = await parts.retained.last(topic)
            if kept is not None and (not events or events[-1].time < kept.time) and not self._is_excluded(kept):
                events.append(kept)
            return events[-limit:]

    async def place_of_last(self, topic: str, limit: int) -> tuple[Position | None, Event | None]:
        """See ``IPeer.place_of_last``."""
        newest = await self.last(topic)
        kept = newest[0] if newest and not newest[0].id else None
        stored = limit - (kept is not None)
        if not newest or not stored or not self._may_name("read", topic):
            return None, kept
        async with self._reading("subscribe", "events"):
            id = await self._parts.channels.id_before_last(self._shown(topic), stored)
        return None if id is None else Position(self.epoch, id), kept

    def _is_excluded(self, event: Event) -> bool:
        return bool(event.exclude) and self.id in self._parts.presence.excluded(event)

    def publish_all(self, publications: Sequence[Publication]) -> Deferred[list[Event]]:
        """See ``IPeer.publish_all``."""
        if not 0 < len(publications) <= MAX_PUBLICATIONS:
            self._allow("publish", "", check_permission=False)
            too_many = TooLarge("events", message=f"there are more than {MAX_PUBLICATIONS} events")
            raise too_many if publications else Invalid("events", message="there are no events")
        for index, topic in enumerate(dict.fromkeys(each.topic for each in publications)):
            self._allow("publish", topic, rate_limited=not index)
            self._own("publish", topic)
        sampler = self._verbs.publish
        sampler.left -= 1
        done = None if sampler.left else sampler.publishes()
        return self._parts.channels.post_all([self._addition(each) for each in publications]).addCallback(_noted, done)

    def _addition(self, publication: Publication) -> Addition:
        key, expect = self._own_key(publication.key), _checked_head(publication.expect)
        event = self._event(publication.topic, publication.name, publication.body, self.client, 0.0)
        self._describe(event, publication.content_type, publication.expires, publication.is_json)
        event.time = 0.0
        return Addition(LOG_PREFIX + event.topic, event, self._channels(), expect, key)

    def receivers(self, event: Event) -> int:
        """See ``IPeer.receivers``."""
        return self._parts.topics.count(event, self._parts.presence.excluded(event))

    def post(
        self,
        topic: str,
        name: str,
        body: bytes | None,
        *,
        client: str = "",
        author: str = "",
        key: str = "",
        expect: int | None = None,
        content_type: str = "",
        expires: float = 0.0,
        is_json: bool | None = None,
    ) -> Deferred[Event]:
        """See ``IPeer.post``."""
        self._allow("publish", topic)
        self._own("publish", topic)
        event = self._event(topic, name, body, client or self.client, 0.0)
        event.author = author
        if content_type or expires or is_json is False:
            self._describe(event, content_type, expires, is_json)
        sampler = self._verbs.publish
        sampler.left -= 1
        done = None if sampler.left else sampler.publishes()
        waiting = self._see_to_id(CLIENT_ID, client, "act") if client else None
        post, quota = self._parts.channels.post, self._channels()
        if key or expect is not None:
            post = partial(post, key=self._own_key(key), expect=_checked_head(expect))
        posted = post(event, quota) if waiting is None else waiting.addCallback(lambda _: post(event, quota))
        return posted if done is None else posted.addCallback(_noted, done)

    def _describe(self, event: Event, content_type: str, expires: float, is_json: bool | None) -> None:
        """Say what the body of *event* is, and until when it is good.

        Raises:
            Invalid: that is no type, or no moment to come.
        """
        if content_type:
            event.content_type = check_name(content_type, "content_type")
        if is_json is None:
            is_json = not content_type or is_json_type(content_type)
        if not is_json and event.body is not None:
            event.binary, event.content_type = True, content_type or OCTETS
        if expires and not self._parts.store.wall.time() < expires <= MAX_EXPIRY:
            raise Invalid("expires")
        event.expires = expires

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
        read = partial(self._parts.channels.read, self._shown(topic), after, limit, max_bytes, page_bytes)
        # A page of so many bytes is one read, which the store bounds.
        return read() if page_bytes else cancellable(self._read(read))

    async def _read(self, read: Callable[[], Deferred[list[Event]]]) -> list[Event]:
        async with self._reading("read", "events"):
            return await read()

    def latest(self, topic: str, limit: int, *, max_bytes: int = MAX_PAGE_BYTES) -> Deferred[list[Event]]:
        """See ``IPeer.latest``."""
        self._allow("read", topic)
        latest = partial(self._parts.channels.latest, self._shown(topic), limit, max_bytes)
        return cancellable(self._read(latest))

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
        client: str = "",
    ) -> list[Event]:
        """See ``IPeer.poll``."""
        self._allow("read", topic)
        self._shown(topic)
        moved = self.move_cursor(client, topic, after) if client else None
        share, expires = self._share or self._take_share(), self.identity.expires
        if expires:
            # Whole seconds: each other time would need a bucket of deadlines of its own.
            timeout = min(timeout, max(0.0, ceil(expires - self.wall.time())))
        try:
            events = await self._parts.channels.poll(topic, after, limit, timeout, max_bytes, share, page_bytes, moved)
        except RateLimited as error:
            raise self._log_polls(error, share, "poll") from None
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
        return await self._parts.indices.read(id, value, extract, partial(self._reading, "read", "events"))


def _noted(result: T, done: Callable[[object], None] | None) -> T:
    """Return *result*; first call *done*, of a ``Sampler``, if it is timed."""
    if done is not None:
        done(result)
    return result


def _checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return *names*, whom an event excludes.

    Raises:
        TooLarge: there are too many.
        Invalid: one is malformed.
    """
    if len(names) > MAX_EXCLUDED:
        raise TooLarge("exclude")
    return tuple(check_name(name, "exclude") for name in names)


def _checked_head(expect: int | None) -> int | None:
    if expect is not None and not 0 <= expect <= MAX_ID:
        raise Invalid("expect")
    return expect
