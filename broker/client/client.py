"""A client, as far as nothing has to be waited for: the same for all drivers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, TypeVar, overload

from broker.client.callbacks import call_with_each, work
from broker.client.consumers import Consumer, Delivery
from broker.client.core import Core
from broker.client.driver import Driver, Listener
from broker.client.handles import EventItems, Items, Job
from broker.client.notices import NoticeKind, Statistics
from broker.client.options import Options
from broker.client.procedures import Procedure, Responder
from broker.client.readers import Reader
from broker.client.streams import Stream
from broker.client.values import Change, Event, Origin
from broker.client.verbs import Verbs
from broker.client.watchers import Watcher

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
D = TypeVar("D", bound=Driver)


def _same(item: T) -> T:
    return item


class BaseClient(Generic[D]):
    """What needs no waiting, and so is the same for all drivers."""

    def __init__(self, driver: D, options: Options, clock: Callable[[], float], random: Callable[[], float]) -> None:
        """Be a client by *driver*."""
        self._driver = driver
        self._core = driver.core = Core(options, driver, clock, random)
        self._verbs = Verbs(self._core)
        if any(url.startswith("wss:") for url in options.urls):
            driver.prepare()

    @property
    def state(self) -> str:
        """Of the connection: "idle", "connecting", "greeting", "ready", "waiting", "closing" or "stopped"."""
        return self._core.state.value

    @property
    def id(self) -> str:
        """The client id that the broker knows it by; "" before it is connected."""
        return self._core.identity.id if self._core.identity is not None else ""

    def stats(self) -> Statistics:
        """Return the counts of now."""
        return self._core.statistics()

    def set_rate(self, limit: float | None) -> None:
        """Ask so many things in a second at most; None: as many as the broker lets."""
        self._core.pending.set_rate(limit)

    @overload
    def on(self, kind: NoticeKind | Literal["*"]) -> Callable[[F], F]: ...
    @overload
    def on(self, kind: NoticeKind | Literal["*"], listener: Listener) -> Listener: ...

    def on(self, kind: NoticeKind | Literal["*"], listener: Listener | None = None) -> Any:
        """Call *listener* with each notice of *kind*, "*": of any; without one, be a decorator."""

        def listen(function: F) -> F:
            self._driver.listen(kind, function)
            return function

        return listen if listener is None else listen(listener)

    def serve(
        self,
        procedure: str,
        *,
        mode: Literal["single", "roundrobin", "leastbusy"] | None = None,
        max_in_flight: int | None = None,
        queue: int | None = None,
    ) -> Callable[[F], F]:
        """Perform *procedure* by the decorated function: a plain one, or one that returns something to await.

        What it raises is the error of the caller: ``CallFailed`` with its own code, others with their text.

        Args:
            procedure: its name.
            mode: "single" without; the others share it with other clients.
            max_in_flight: how many calls it takes at once.
            queue: how many more may wait.

        Raises:
            Taken: this client performs it already.
        """
        given = {"mode": mode, "max_in_flight": max_in_flight, "queue": queue}
        terms = {name: value for name, value in given.items() if value is not None}

        def register(function: F) -> F:
            self._core.register(Procedure(self._core, procedure, function, terms))
            return function

        return register

    def withdraw(self, procedure: str) -> None:
        """Perform *procedure* no more."""
        found = self._core.registry.get(Procedure.kind, procedure)
        if found is not None:
            found.close()

    def performs(self, procedure: str) -> bool:
        """Whether *procedure* is one that this client performs: not if it was refused for good, or withdrawn."""
        return self._core.registry.get(Procedure.kind, procedure) is not None

    def respond(self, topic: str = "*") -> Callable[[F], F]:
        """Respond to the requests of *topic* by the decorated function of the payload.

        It returns one response, or is an async generator of any number.
        """

        def register(function: F) -> F:
            self._core.register(Responder(self._core, topic, function))
            return function

        return register

    def request(
        self,
        payload: Any,
        *,
        recipient: str = "",
        replies: int | None = None,
        idle: float = 60.0,
        timeout: float | None = None,
    ) -> Items[Any]:
        """Ask for a stream of responses.

        Args:
            payload: any JSON; its member ``action`` names the topic.
            recipient: the client that is to respond; "": whoever takes the topic.
            replies: after how many it ends; None: nobody knows.
            idle: seconds after the last response at which it ends.
            timeout: seconds until the first one.

        It ends with ``Cancelled`` behind ten times ``max_unread`` responses that were not read.

        Raises:
            NotConnected: there is no connection.
        """
        asked = self._core.requests.ask(payload, recipient, replies=replies, idle=idle, timeout=timeout)
        return Items(self._driver, asked.stream, _same, asked.close)

    def subscribe(
        self,
        topic: str,
        callback: Callable[[Event], object] | None = None,
        *,
        from_: Origin | None = None,
        cursor: str = "",
        echo: bool | None = None,
        exact: bool = False,
        last: int | None = None,
        presence: Any = None,
    ) -> EventItems:
        """Subscribe to a topic or a pattern; iterate over what is returned, or give a *callback*.

        After a loss it goes on where it was: of what is stored no event is missing, and none comes twice.  What can
        not be had, or may be missing as it is not stored, is told by a notice "gap".  There may be any number of
        subscriptions to a topic, each with a beginning of its own.  One that nobody holds any more, and that has
        neither callback nor presence, is closed.

        Args:
            topic: a name or a pattern.
            callback: is called with each event; what it returns is awaited before the next, if it can be.
            from_: a position, "start", "new", or for a pattern a position by topic; None: as "new", but what is
                stored is done without where it may not be read.
            cursor: begin after what it has acknowledged.
            echo: whether your own live events come, too.
            exact: whether wildcards are ordinary characters.
            last: how many of the newest events that are kept come first.
            presence: true, or what you say of yourself: be a member of the topic.
        """
        stream: Stream[Event] = Stream(self._core.options.max_unread)
        reader = Reader(self._core, topic, stream, from_, cursor, last, presence)
        self._core.subscribe(reader, exact=exact, echo=bool(echo))
        items = EventItems(self._driver, reader)
        self._pump(items, callback)
        return items

    def watch(
        self,
        pattern: str,
        callback: Callable[[Change], object] | None = None,
        *,
        previous: bool = False,
        exact: bool = False,
    ) -> Items[Change]:
        """Watch a key or a pattern of keys: what is there comes first, and then each change, also after a loss.

        If the changes of that time can not be had, what is different comes: keys that have gone with the kind
        "missed".  There may be any number of watches of a pattern; only *exact* must be the same.
        """
        stream: Stream[Change] = Stream(self._core.options.max_unread)
        watcher = Watcher(self._core, pattern, stream, previous)
        self._core.watch(watcher, exact=exact)
        items = Items(self._driver, stream, _same, watcher.close)
        self._pump(items, callback)
        return items

    def consume(
        self,
        queue: str,
        callback: Callable[[Job], object] | None = None,
        *,
        prefetch: int = 1,
        lease: float | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002  # the broker calls it so
    ) -> Items[Job]:
        """Consume the jobs of *queue*, or with ``@me`` the messages of the own mailbox.

        Iterate over what is returned, each job in its ``async with``; or give a *callback*, which is called with up
        to *prefetch* jobs at a time: a job is done when it returns, or what it returns was awaited.

        Args:
            queue: its name.
            callback: does a job.
            prefetch: how many jobs it has at once.
            lease: seconds that the broker gives for one, which are extended while it takes.
            filter: members that the payload must have.

        Raises:
            Taken: this client consumes it already.  For more at once there is *prefetch*.
        """
        stream: Stream[Delivery] = Stream(max(prefetch, 1))
        consumer = Consumer(self._core, queue, stream, prefetch, lease, dict(filter) if filter is not None else None)
        self._core.register(consumer)

        def make(delivery: Delivery) -> Job:
            return Job(self._driver, delivery)

        items = Items(self._driver, stream, make, consumer.close)
        if callback is not None:
            for _ in range(prefetch):
                self._driver.spawn(work(items, callback))
        return items

    def _pump(self, items: Items[T], callback: Callable[[T], object] | None) -> None:
        if callback is not None:
            self._driver.spawn(call_with_each(items, callback, self._driver.notify))
