"""What all drivers have in common: credentials, handlers and notices."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from contextvars import ContextVar
from inspect import isawaitable
from typing import Any, TypeAlias, TypeVar

from broker.client.connection import ABNORMAL
from broker.client.core import Core
from broker.client.notices import Notice
from broker.client.outcomes import Outcome
from broker.client.procedures import Invocation

T = TypeVar("T")
Listener: TypeAlias = Callable[[Notice], object]
Token: TypeAlias = "str | Callable[[], str | Awaitable[str]] | None"

log = logging.getLogger("broker.client")
# Which work of a driver the code of now is a part of.
_inside: ContextVar[object] = ContextVar("broker.client.driver.inside", default=None)


def _ignore() -> None:
    """Do nothing."""


async def _marked(token: object, work: Coroutine[Any, Any, object]) -> None:
    """Do *work*, which can find out that it is that of *token*."""
    _inside.set(token)
    await work


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
        self._running: dict[object, Callable[[], object]] = {}  # what cancels each work
        self._waiting: dict[object, Outcome[None]] = {}  # for all other work, by the work that waits

    # Of a library.

    @abstractmethod
    def prepare(self) -> None:
        """Read the certificates that are trusted.

        Raises:
            Invalid: that can not be done.
        """

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
    def run(self, work: Coroutine[Any, Any, object], ended: Callable[[], object]) -> Callable[[], object]:
        """Run *work*, call *ended* at its end, and tell of what it raises; return what cancels it."""

    @abstractmethod
    async def wait_at_most(self, outcome: Outcome[None], seconds: float) -> None:
        """Wait until *outcome* has ended, or for so many seconds."""

    @abstractmethod
    def call_soon(self, function: Callable[[], object]) -> None:
        """Call *function* soon, where the client lives; from any thread."""

    @abstractmethod
    def wait(self, outcome: Outcome[T], /) -> Awaitable[T]:
        """Return what ends as *outcome* does."""

    def is_cancelled(self, error: BaseException) -> bool:
        """Whether *error* says that the application itself has cancelled its work."""
        return not isinstance(error, Exception)

    # Work of the application.

    def spawn(self, work: Coroutine[Any, Any, object]) -> Callable[[], object]:
        """Run *work*; return what cancels it."""
        token = object()
        self._running[token] = _ignore  # it may end before it is known how to cancel it
        cancel = self.run(_marked(token, work), lambda: self._ended(token))
        if token in self._running:
            self._running[token] = cancel
        return cancel

    async def finish(self) -> None:
        """Wait until all work has ended, and cancel what has not in time; not the work that calls this."""
        await self._wait_for_others()
        for cancel in self._others(_inside.get()):
            cancel()
        await self._wait_for_others()

    async def _wait_for_others(self) -> None:
        inside = _inside.get()
        if self._others(inside):
            self._waiting[inside] = Outcome()
            await self.wait_at_most(self._waiting[inside], self.core.options.close_timeout)
            self._waiting.pop(inside, None)

    def _others(self, inside: object) -> list[Callable[[], object]]:
        return [cancel for token, cancel in self._running.items() if token is not inside]

    def _ended(self, token: object) -> None:
        del self._running[token]
        for inside, outcome in list(self._waiting.items()):
            if not self._others(inside):
                outcome.succeed(None)

    # For the core.

    def connect(self, url: str) -> None:
        """Open a connection to *url* with the credential of now."""
        self._attempt += 1
        if callable(self._token):
            self.spawn(self._connect(self._attempt, url))
        else:
            self._open(url, self._token)

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

    def tick(self) -> None:
        """Do what is due, and see to what is due next; what fails is told, and is done no more."""
        try:
            due = self.core.tick()
        except Exception as error:
            self.notify(Notice("error", "a timer has failed", error=error))
            due = self.core.clock()
        if due is not None:
            self.wake(due)

    def received(self, data: bytes) -> None:
        """Give a frame to the core; what fails there does not end the connection."""
        try:
            self.core.received(data)
        except Exception as error:
            self.notify(Notice("error", "a frame was not understood", error=error))

    async def _credential(self) -> str | None:
        token = self._token() if callable(self._token) else self._token
        return await token if token is not None and not isinstance(token, str) else token

    async def _connect(self, attempt: int, url: str) -> None:
        try:
            token = await self._credential()
        except Exception as error:
            if attempt == self._attempt:
                self.notify(Notice("auth-failed", "no credential", error=error))
                self.core.disconnected(ABNORMAL, f"no credential: {error}")
            return
        if attempt == self._attempt:
            self._open(url, token)

    def _open(self, url: str, token: str | None) -> None:
        if token and not (isinstance(token, str) and token.isascii() and token.isprintable()):
            self.core.refused(400, "a credential is a text of printable ASCII characters")
            return
        self.open(url, {"Authorization": f"Bearer {token}"} if token else {})

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
