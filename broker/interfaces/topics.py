"""Events: subscriptions, presence and publications."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import Interface

from broker.interfaces.coroutines import Coro
from broker.interfaces.sessions import IFollower
from broker.messages import Event, Loss, Origin, Position, Publication

MAX_PUBLICATIONS = 1000  # that are stored together


class ITopicVerbs(Interface):
    """To publish events, and to subscribe to them."""

    def subscribe(topic: str, *, exact: bool = False, echo: bool = False, rate_limited: bool = True) -> None:
        """Get the events of *topic*, a name or a pattern, from now on, by ``ISession.event``.

        With *exact*, wildcards in it are ordinary characters.  With *echo* it
        gets its own publications too.  *rate_limited* is false for all but the
        first of several topics that one frame names.

        Raises:
            RateLimited: it has too many subscriptions.
        """

    def unsubscribe(topic: str, *, exact: bool = False) -> None:
        """Undo ``subscribe`` of the same *topic* and *exact*, and ``enter``; a no-op without one."""

    def enter(topic: str, info: bytes = b"") -> None:
        """Be present on *topic*, a name that it has subscribed to, until ``exit``, ``unsubscribe`` or the end.

        All nodes know it.  They tell it on the topic ``broker.presence.<topic>``, by events ``join`` and ``leave`` of
        the client: one each, however many of its sessions are present, and the leave after 2 seconds in which
        none has come back.  Who may subscribe to a topic may subscribe to this, and ask for the ``members``.

        Args:
            topic: where.
            info: what it says of itself, JSON text of up to 4 KiB, or b"".

        Raises:
            NotFound: it has not subscribed to it.
            Denied: the topic is one of the broker.
        """

    def exit(topic: str) -> None:
        """Undo ``enter``; a no-op without one."""

    def set_testament(
        topic: str,
        name: str,
        body: bytes | None,
        *,
        retain: bool = False,
        content_type: str = "",
        is_json: bool | None = None,
    ) -> Coro[None]:
        """Leave an event behind, in the place of one before: it is published when this peer is closed.

        It is kept in the store: when this node is lost, another publishes it, or itself when it starts again.  When
        something fails meanwhile it may be published twice; on a durable topic it is stored once.
        A dialect calls ``drop_testament`` before that, when its client has said goodbye.  The arguments are as
        those of ``publish``, whose permission it needs now; it is stored if its topic is durable.
        """

    def drop_testament() -> None:
        """Undo ``set_testament``; a no-op without one."""

    def members(topic: str, *, rate_limited: bool = True) -> list[Any]:
        """Return who is present on *topic*, on all nodes: see ``core.members.Member``."""

    def page_of_members(topic: str, after: str, limit: int) -> Any:
        """Return 1 to 1000 members of *topic*: see ``core.members.Members.page``."""

    def follow(
        topic: str,
        origin: Origin | None,
        deliver: Callable[[Event], bool],
        lost: Callable[[Loss], object],
        *,
        cursor: str = "",
        exact: bool = False,
        echo: bool = False,
        rate_limited: bool = True,
    ) -> Coro[IFollower]:
        """Get the events of *topic*, a name or a pattern, from *origin* on, each stored one once and in order.

        Those that are stored already come first, read from the store as the client has room for them;
        then those that are new.  It takes the place of ``subscribe`` to the same topic.

        Args:
            topic: of a pattern, 100 stored topics may match.
            origin: a position (the first event is the one after it), ``START`` or ``NEW``; for a pattern one of
                those words, or the position of each topic: a topic without one begins at its start.
                None: as *cursor* says.
            deliver: hands one event to the client.  False: it has no room now; the event comes again after
                ``resume``, of the follower or of the peer, if it is stored.
            lost: called with what can not be had any more, when that is noticed after the beginning.
            cursor: a client id; "": none.  Without *origin*, each topic begins after what that has acknowledged,
                or at its start.
            exact: as in ``subscribe``.
            echo: as in ``subscribe``; what is read from the store comes whoever has published it.
            rate_limited: as in ``subscribe``.

        Nothing is delivered before ``IFollower.start``.  It needs the permissions to subscribe and to read.

        Raises:
            Invalid: *origin* does not fit the topic, or a position is beyond the newest event.
            TooLarge: the pattern matches too many topics.
        """

    def fall_behind(
        event: Event, pattern: str, deliver: Callable[[Event], bool], lost: Callable[[Loss], object]
    ) -> bool:
        """Follow the topic or *pattern* by which *event* has come, from that on: the client has no room for it.

        It goes on with ``resume``; *deliver* and *lost* as in ``follow``.  False: *event* is not stored, or it
        did not come by a plain subscription.
        """

    def resume() -> None:
        """Let all that it follows go on: the client has room again."""

    def listening() -> Coro[None]:
        """Return when its subscriptions are in force on all nodes, and they know what it takes and consumes.

        That is at once, or within a few seconds.
        """

    def publish(
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
        """Publish an event; on a durable topic it is stored first.

        Args:
            topic: where; not one of the broker's own, which are ``broker`` and those that begin with
                ``broker.``, ``queue:`` or ``kv/``.
            name: the kind of event.
            body: JSON text, passed on byte for byte, or None; any bytes if *is_json* says so.
            time: the client's clock in seconds since the epoch; 0: the broker's.
            named: whether others are told the client id of the publisher.
            original: the client's own frame, for receivers of this dialect.
            durable: whether it is stored whatever the topic.
            key: 1 to 255 characters; if the topic has got an event by it in the last ``TXBROKER_DEDUP_SECONDS``, from
                the same principal, this one is dropped, and the result is a ``duplicate`` with id and time of that one.
            expect: the last id that the topic must have, 0 for none.
            content_type: see ``Event``.
            expires: see ``Event``.
            exclude: see ``Event``; at most 1000.
            retain: whether it is kept for ``last`` although it is not stored, in the place of the one before; as it
                is anyway on the topics of ``TXBROKER_RETAINED_TOPICS``.  Without a body, or with null, none is kept.
            is_json: whether the body is JSON text; None: as *content_type* says, where ``application/json``,
                what ends in ``+json``, and none are JSON.  Dialects that write JSON show any other body in base64.

        The Deferred fires with the event when it is on its way, and safe if stored.

        Raises:
            Invalid: *key* or *expect* was given, and the event is not to be stored; or one of the values is
                malformed.
            Conflict: *expect* was given, and the topic has another last id: see ``IStore.append``.
        """

    def last(topic: str, limit: int = 1) -> Coro[list[Event]]:
        """Return the newest events of *topic* that are kept, oldest first, at most *limit*.

        These are stored ones, if the client may ``read`` them, and the last live one that was retained.
        """

    def place_of_last(topic: str, limit: int) -> Coro[tuple[Position | None, Event | None]]:
        """Return where the events begin that ``last`` returns, without keeping them.

        That is the position that they follow, None when none of them is stored; and the live one, if it is the last.
        """

    def publish_all(publications: Sequence[Publication]) -> Deferred[list[Event]]:
        """Store 1 to ``MAX_PUBLICATIONS`` events, of several topics perhaps, all or none, and publish them.

        They are visible together.  The Deferred fires with them, as those of ``publish``, when they are safe.

        Raises:
            TooLarge: there are more.
            Conflict: as for ``publish``; what a later one expects counts those before it.
        """

    def receivers(event: Event) -> int:
        """Return how many sessions of this node listen to the topic of *event*, which it has published."""

    def post(
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
        """Publish an event and store it, whatever the topic.

        Args:
            topic: as that of ``publish``.
            name: as that of ``publish``.
            body: as that of ``publish``.
            client: the client id that it is from, see ``act_as``; "": the peer's own.
            author: what the application says of whom it is from, see ``Event.author``.
            key: as that of ``publish``.
            expect: as that of ``publish``.
            content_type: see ``Event``.
            expires: see ``Event``.
            is_json: as that of ``publish``.

        The Deferred fires with the event, its id set, when it is safe.
        """
