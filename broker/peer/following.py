"""The verbs of those who come back: follow a topic from a position, read its pages, acknowledge what they have."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from broker.core.followers import Follower
from broker.core.owners import CLIENT_ID
from broker.core.pages import find_page
from broker.core.starts import Place
from broker.errors import Denied, Gone, Invalid
from broker.interfaces import MAX_PAGE_BYTES
from broker.messages import START, CursorState, Event, Loss, Origin, Page, Position, quota_of
from broker.patterns import LOG_PREFIX, check_name, is_pattern
from broker.peer.topics import TopicVerbs

MAX_LIMIT = 1000  # events of one page


class FollowVerbs(TopicVerbs):
    """Follow, read, acknowledge."""

    __slots__ = ()

    async def follow(
        self,
        topic: str,
        origin: Origin | None,
        deliver: Callable[[Event], bool],
        lost: Callable[[Loss], object],
        *,
        cursor: str = "",
        exact: bool = False,
        echo: bool = False,
        rate_limited: bool = True,
    ) -> Follower:
        """See ``IPeer.follow``."""
        self._allow_to_subscribe(topic, exact=exact, rate_limited=rate_limited)
        self._allow_to_read(topic, exact)
        if cursor:
            await self._use_client_id(cursor)
        self._check_room(topic, exact)
        follower = self._make_follower(topic, exact, echo, deliver, lost)
        beginning = self._beginning = self._beginning or []
        beginning.append(follower)
        try:
            await self.listening()
            async with self._reading("read", "events"):
                await follower.begin(partial(self._acknowledged, cursor) if origin is None else origin)
            if self.closed:
                raise Gone("lost", "session")
        except BaseException:  # to be cancelled is one
            follower.stop()
            raise
        finally:
            if follower in beginning:
                beginning.remove(follower)
        if not follower.stopped:  # it may have been unsubscribed meanwhile
            self._end_subscription(topic, exact)
            self._keep_subscription(topic, exact, follower)
        return follower

    def _allow_to_read(self, topic: str, exact: bool) -> None:
        """Check that the client may read all that was stored of *topic*, a name or a pattern.

        Raises:
            Denied: it may not.
        """
        if exact or not is_pattern(topic):
            self._allow("read", topic, rate_limited=False)
            self._shown(topic)
        elif (grants := self.identity.grants) is not None and not grants.may_all("read", topic):
            raise self.deny("read", topic)

    async def _use_client_id(self, client: str) -> None:
        check_name(client, "cursor")
        waiting = self._see_to_id(CLIENT_ID, client, "act")
        if waiting is not None:
            await waiting

    async def _acknowledged(self, client: str, topic: str) -> Place:
        """Return where *client* goes on in *topic*: after what it has acknowledged, or at the start."""
        channels = self._parts.channels
        position = await channels.acknowledged(client, topic) if client else None
        if position is None:
            return START
        # Whoever has moved it beyond the end has all there is.
        head = await channels.head(topic) if position.epoch == self.epoch else position.id
        return Position(position.epoch, min(position.id, head))

    def _make_follower(
        self,
        topic: str,
        exact: bool,
        echo: bool,
        deliver: Callable[[Event], bool],
        lost: Callable[[Loss], object],
    ) -> Follower:
        followers, reading = self._parts.followers, (self._share or self._take_share()).reading
        return Follower(followers, self.id, topic, exact, echo, deliver, lost, self.hold, reading, self.fail)

    def fall_behind(
        self, event: Event, pattern: str, deliver: Callable[[Event], bool], lost: Callable[[Loss], object]
    ) -> bool:
        """See ``IPeer.fall_behind``."""
        topics = self._topics or {}
        key = (pattern, False) if (pattern, False) in topics else (pattern, True)
        echo = topics.get(key)
        if not event.id or not isinstance(echo, bool):
            return False
        follower = self._make_follower(*key, echo, deliver, lost)
        self._parts.topics.unsubscribe(self, pattern, exact=key[1])
        self._keep_subscription(*key, follower)
        follower.fall_behind(event)
        self._parts.metrics.slow_consumer("pull")
        return True

    def resume(self) -> None:
        """See ``IPeer.resume``."""
        for held in list((self._topics or {}).values()):
            if isinstance(held, Follower):
                held.resume()

    # Pages and cursors.

    async def page(
        self,
        topic: str,
        *,
        after: Position | None = None,
        before: Position | None = None,
        last: bool = False,
        limit: int = 100,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> Page:
        """See ``IPeer.page``."""
        self._allow("read", topic)
        if not 0 < limit <= MAX_LIMIT:
            raise Invalid("limit")
        log = LOG_PREFIX + self._shown(topic)
        store, slices = self._parts.store, self._parts.followers.slices
        async with self._reading("read", "events"):
            return await find_page(
                store, log, after=after, before=before, last=last, limit=limit, max_bytes=max_bytes, slices=slices
            )

    async def acknowledge_events(self, cursor: str, topic: str, position: Position) -> bool:
        """See ``IPeer.acknowledge_events``."""
        self._allow("read", topic)
        self._shown(topic)
        await self._use_client_id(cursor)
        quota = quota_of("cursors", self.identity.kind, self.identity.name, self._parts.settings.max_cursors)
        return await self._parts.cursors.acknowledge(cursor, topic, position, quota)

    async def forget_cursor(self, cursor: str, topic: str) -> bool:
        """See ``IPeer.forget_cursor``."""
        self._allow("read", topic)
        self._shown(topic)
        await self._use_client_id(cursor)
        return await self._parts.channels.forget_cursor(cursor, topic)

    async def cursors(self, topic: str = "") -> tuple[list[CursorState], bool]:
        """See ``IPeer.cursors``."""
        self._allow("read", topic, check_permission=bool(topic))
        async with (self._share or self._take_share()).listing.permit():
            found, more = await self._parts.cursors.listed(self.client, self._may_use, topic)
        grants = self.identity.grants
        return [each for each in found if grants is None or grants.may("read", each.topic)], more

    async def _may_use(self, client: str) -> bool:
        try:
            await self._parts.owners.claim(CLIENT_ID, client, self.identity, only_check=True)
        except (Denied, Invalid):
            return False
        return True
