"""What all drivers have in common: credentials, handlers, notices, and the methods that need no waiting."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Mapping
from inspect import isawaitable
from typing import Any, Generic, Literal, TypeAlias, TypeVar, overload

from broker.client.consumers import Consumer, Delivery
from broker.client.core import ABNORMAL, Core
from broker.client.handles import Items, Job
from broker.client.options import Options
from broker.client.outcomes import Outcome
from broker.client.procedures import Invocation, Procedure, Responder
from broker.client.streams import Stream
from broker.client.subscriptions import Subscription
from broker.client.values import Change, Event, Notice, NoticeKind, Origin, Position, Start, Statistics
from broker.client.verbs import Verbs, check_origin
from broker.client.watches import Watch

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Listener: TypeAlias = Callable[[Notice], object]
Token: TypeAlias = "str | Callable[[], str | Awaitable[str]] | None"

log = logging.getLogger("broker.client")


def _same(item: T) -> T:
    return item


class Driver(ABC):
    """A ``core.Driver``; its subclasses know a library.

    Attributes:
        core: set by the client.
    """

    core: Core

    def __init__(self, token: Token) -> None:
        """Show *token*; a function is asked for it with each attempt, and when it expires."""
        self.renewable = callable(token)
        self._token = token
        self._listeners: dict[str, list[Listener]] = {}
        self._attempt = 0
        self._url = ""

    # Of a library.

    @abstractmethod
    def open(self, url: str, headers: dict[str, str]) -> None:
        """Open a connection."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Send a text frame."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection in good order."""

    @abstractmethod
    def drop(self) -> None:
        """Drop the connection, or the attempt; tell nothing of it any more."""

    @abstractmethod
    def wake(self, when: float) -> None:
        """Call ``core.tick`` at *when* or earlier."""

    @abstractmethod
    def rest(self) -> None:
        """Call ``core.tick`` no more."""

    @abstractmethod
    def spawn(self, work: Coroutine[Any, Any, object]) -> Callable[[], object]:
        """Run *work*; return what cancels it."""

    @abstractmethod
    def wait(self, outcome: Outcome[T], /) -> Awaitable[T]:
        """Return what ends as *outcome* does."""

    # For the core.

    def connect(self) -> None:
        """Open a connection with the credential of now."""
        self._attempt += 1
        if callable(self._token):
            self.spawn(self._connect(self._attempt))
        else:
            self._open(self._token)

    def abort(self) -> None:
        """Drop the connection, or the attempt."""
        self._attempt += 1
        self.drop()

    def renew(self) -> None:
        """Show a new credential."""
        self.spawn(self._renew())

    def invoke(self, invocation: Invocation) -> None:
        """Run a handler; one that is no coroutine is done at once."""
        try:
            result = invocation.handler(*invocation.arguments)
        except Exception as error:
            self._handler_failed(invocation, error)
            return
        if isawaitable(result) or isinstance(result, AsyncIterable):
            cancel = self.spawn(self._perform(invocation, result))
            if not invocation.ended:
                invocation.stop = cancel
        else:
            invocation.respond(result)
            invocation.finish()

    def notify(self, notice: Notice) -> None:
        """Tell those who listen to notices of this kind."""
        if notice.kind == "stopped":
            self.rest()
        for listener in (*self._listeners.get(notice.kind, ()), *self._listeners.get("*", ())):
            try:
                listener(notice)
            except Exception:
                log.exception("a listener for %s has failed", notice.kind)
        if notice.kind == "error" and not self._listeners.get("error"):
            log.error("%s", notice.reason or notice.error, exc_info=notice.error)

    def listen(self, kind: str, listener: Listener) -> None:
        """Call *listener* with each notice of *kind*."""
        self._listeners.setdefault(kind, []).append(listener)

    def received(self, data: bytes) -> None:
        """Give a frame to the core; what fails there does not end the connection."""
        try:
            self.core.received(data)
        except Exception as error:
            self.notify(Notice("error", "a frame was not understood", error=error))

    async def _credential(self) -> str | None:
        token = self._token() if callable(self._token) else self._token
        return await token if token is not None and not isinstance(token, str) else token

    async def _connect(self, attempt: int) -> None:
        try:
            token = await self._credential()
        except Exception as error:
            if attempt == self._attempt:
                self.notify(Notice("auth-failed", "no credential", error=error))
                self.core.disconnected(ABNORMAL, f"no credential: {error}")
            return
        if attempt == self._attempt:
            self._open(token)

    def _open(self, token: str | None) -> None:
        self.open(self.core.options.address, {"Authorization": f"Bearer {token}"} if token else {})

    async def _renew(self) -> None:
        try:
            token = await self._credential()
        except Exception as error:
            self.notify(Notice("auth-failed", "no credential", error=error))
        else:
            self.core.refresh(token or "")

    async def _perform(self, invocation: Invocation, result: Any) -> None:
        try:
            if isinstance(result, AsyncIterable):
                async for value in result:
                    invocation.respond(value)
            else:
                invocation.respond(await result)
        except Exception as error:
            self._handler_failed(invocation, error)
        else:
            invocation.finish()

    def _handler_failed(self, invocation: Invocation, error: Exception) -> None:
        if not invocation.ended:
            log.debug("the handler of %s has failed", invocation.handler, exc_info=error)
            invocation.fail(error)


D = TypeVar("D", bound=Driver)


class EventItems(Items[Event]):
    """The events of a subscription."""

    def __init__(self, driver: Driver, subscription: Subscription) -> None:
        """Be those of *subscription*."""
        super().__init__(driver.wait, subscription.stream, _same, subscription.close)
        self._subscription = subscription
        self.gaps = subscription.gaps

    def ready(self) -> Awaitable[Start]:
        """Wait until it is in place for the first time; ends with where it begins."""
        return self._wait(self._subscription.ready)  # type: ignore[arg-type]  # what ``answered`` returns

    @property
    def position(self) -> Position | None:
        """Where the subscription to a topic is: of the last event that has come."""
        return self._subscription.position


class BaseClient(Generic[D]):
    """What needs no waiting, and so is the same for all drivers."""

    def __init__(self, driver: D, options: Options, clock: Callable[[], float], random: Callable[[], float]) -> None:
        """Be a client by *driver*."""
        self._driver = driver
        self._core = driver.core = Core(options, driver, clock, random)
        self._verbs = Verbs(self._core)

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
        """
        given = {"mode": mode, "max_in_flight": max_in_flight, "queue": queue}
        terms = {name: value for name, value in given.items() if value is not None}

        def register(function: F) -> F:
            self._core.register(Procedure(self._core, procedure, function, terms))
            return function

        return register

    def withdraw(self, procedure: str) -> None:
        """Perform *procedure* no more."""
        found = self._core.registrations.get((Procedure.kind, procedure))
        if found is not None:
            found.close()

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

        Raises:
            NotConnected: there is no connection.
        """
        asked = self._core.requests.ask(payload, recipient, replies=replies, idle=idle, timeout=timeout)
        return Items(self._driver.wait, asked.stream, _same, asked.close)

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

        With *from_* or *cursor* it goes on after a loss where it was: no event is missing, and none comes twice.
        What can not be had any more is told by a notice "gap".

        Args:
            topic: a name or a pattern.
            callback: is called with each event; what it returns is awaited before the next, if it can be.
            from_: a position, "start", "new", or for a pattern a position by topic; None: live events only.
            cursor: begin after what it has acknowledged.
            echo: whether your own live events come, too.
            exact: whether wildcards are ordinary characters.
            last: how many of the newest events that are kept come first.
            presence: true, or what you say of yourself: be a member of the topic.
        """
        check_origin(from_)
        given = {"echo": echo, "last": last, "presence": presence}
        options = {name: value for name, value in given.items() if value is not None}
        stream: Stream[Event] = Stream(self._core.options.max_unread)
        subscription = Subscription(self._core, topic, stream, from_, cursor, exact, options)
        self._core.register(subscription)
        items = EventItems(self._driver, subscription)
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
        "missed".
        """
        stream: Stream[Change] = Stream(self._core.options.max_unread)
        watch = Watch(self._core, pattern, stream, previous, exact)
        self._core.register(watch)
        items = Items(self._driver.wait, stream, _same, watch.close)
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
        """
        stream: Stream[Delivery] = Stream(max(prefetch, 1))
        consumer = Consumer(self._core, queue, stream, prefetch, lease, dict(filter) if filter is not None else None)
        self._core.register(consumer)

        def make(delivery: Delivery) -> Job:
            return Job(self._driver.wait, self._driver.notify, delivery)

        items = Items(self._driver.wait, stream, make, consumer.close)
        if callback is not None:
            for _ in range(prefetch):
                self._driver.spawn(_work(items, callback))
        return items

    def _pump(self, items: Items[T], callback: Callable[[T], object] | None) -> None:
        if callback is not None:
            self._driver.spawn(_call_with_each(items, callback, self._driver.notify))


async def _call_with_each(items: Items[T], callback: Callable[[T], object], notify: Listener) -> None:
    while True:
        try:
            item = await items.__anext__()
        except StopAsyncIteration:
            return
        except Exception as error:
            notify(Notice("error", "nothing more comes", error=error))
            return
        try:
            result = callback(item)
            if isawaitable(result):
                await result
        except Exception as error:
            notify(Notice("error", "a callback has failed", error=error))


async def _work(items: Items[Job], callback: Callable[[Job], object]) -> None:
    async for job in items:
        async with job:
            result = callback(job)
            if isawaitable(result):
                await result
