"""The client for programs on asyncio, by ``websockets``: what has to be waited for is a ``Future``."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from functools import wraps
from random import random
from time import monotonic
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from broker.client.core import ABNORMAL
from broker.client.driving import BaseClient, Driver, Token
from broker.client.errors import ClientError
from broker.client.options import Options, Settings
from broker.client.outcomes import Outcome
from broker.client.values import Notice
from broker.client.verbs import Verbs

P = ParamSpec("P")
T = TypeVar("T")

__all__ = ["Client"]


class _Connection:
    """One connection, or the attempt; without a driver when nobody wants it any more."""

    def __init__(self, driver: AsyncioDriver, url: str, headers: dict[str, str]) -> None:
        """Connect *driver* to *url*."""
        self.driver: AsyncioDriver | None = driver
        self._socket: ClientConnection | None = None
        self._outgoing: deque[bytes] = deque()
        self._more = asyncio.Event()
        self._closing = False
        self._reader = driver.start(self._read(url, headers))

    def send(self, data: bytes) -> None:
        """Send a text frame."""
        self._outgoing.append(data)
        self._more.set()

    def close(self) -> None:
        """Close it when all was sent."""
        self._closing = True
        self._more.set()

    def abort(self) -> None:
        """Drop it."""
        self.driver = None
        self._more.set()
        if self._socket is not None:
            self._socket.transport.abort()
        if self._reader is not asyncio.current_task():
            self._reader.cancel()

    async def _read(self, url: str, headers: dict[str, str]) -> None:
        try:
            # The core has its own limits of time.
            socket = self._socket = await connect(
                url,
                additional_headers=headers,
                user_agent_header=None,
                compression=None,
                open_timeout=None,
                ping_interval=None,
                close_timeout=None,
                max_size=None,
                max_queue=None,
            )
        except InvalidStatus as error:
            self._refused(error)
        except (OSError, WebSocketException, EOFError) as error:
            self._ended(ABNORMAL, str(error) or type(error).__name__)
        else:
            await self._use(socket)

    async def _use(self, socket: ClientConnection) -> None:
        if self.driver is None:
            socket.transport.abort()
            return
        writer = self.driver.start(self._write(socket))
        self.driver.core.connected()
        code, reason = ABNORMAL, ""
        try:
            while self.driver is not None:
                data = await socket.recv(decode=False)
                if self.driver is not None:
                    self.driver.received(data)
        except ConnectionClosed as error:
            if error.rcvd is not None:
                code, reason = error.rcvd.code, error.rcvd.reason
        finally:
            writer.cancel()
            socket.transport.abort()
        self._ended(code, reason)

    async def _write(self, socket: ClientConnection) -> None:
        try:
            while self.driver is not None:
                while self._outgoing:
                    await socket.send(self._outgoing.popleft(), text=True)
                if self._closing:
                    await socket.close()
                    return
                self._more.clear()
                await self._more.wait()
        except ConnectionClosed:
            return  # the reader knows

    def _refused(self, error: InvalidStatus) -> None:
        driver, self.driver = self.driver, None
        response = error.response
        body = (response.body or b"").decode("utf-8", "replace")
        wait = response.headers.get("Retry-After", "")
        if driver is not None:
            driver.core.refused(response.status_code, body or str(error), float(wait) if wait.isdecimal() else 0.0)

    def _ended(self, code: int, reason: str) -> None:
        driver, self.driver = self.driver, None
        if driver is not None:
            driver.connection_ended(code, reason)


class AsyncioDriver(Driver):
    """Does the input and output of one client on the running loop."""

    def __init__(self, token: Token, clock: Callable[[], float]) -> None:
        """Go by *clock*, as the core does."""
        super().__init__(token)
        self._clock = clock
        self._connection: _Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()

    def open(self, url: str, headers: dict[str, str]) -> None:
        """Open a connection."""
        self._connection = _Connection(self, url, headers)

    def send(self, data: bytes) -> None:
        """Send a text frame."""
        if self._connection is not None:
            self._connection.send(data)

    def close(self) -> None:
        """Close the connection in good order."""
        if self._connection is not None:
            self._connection.close()

    def drop(self) -> None:
        """Drop the connection, or the attempt."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def connection_ended(self, code: int, reason: str) -> None:
        """The connection has ended by itself."""
        self._connection = None
        self.core.disconnected(code, reason)

    def wake(self, when: float) -> None:
        """Call ``core.tick`` then or earlier."""
        if self._timer is not None:
            if self._due <= when:
                return
            self._timer.cancel()
        self._due = when
        self._timer = asyncio.get_running_loop().call_later(max(0.0, when - self._clock()), self._tick)

    def rest(self) -> None:
        """Call ``core.tick`` no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def spawn(self, work: Coroutine[Any, Any, object]) -> Callable[[], object]:
        """Run *work*."""
        return self.start(work).cancel

    def start(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Run *work*, and keep it as long as it runs."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def wait(self, outcome: Outcome[T], /) -> asyncio.Future[T]:
        """Return a Future of *outcome*."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def succeed(result: T) -> None:
            if not future.done():
                future.set_result(result)

        def fail(error: ClientError) -> None:
            if not future.done():
                future.set_exception(error)

        outcome.listen(succeed, fail)
        if not future.done():
            future.add_done_callback(lambda ended: outcome.cancel() if ended.cancelled() else None)
        return future

    async def finish(self) -> None:
        """Wait until all work has ended."""
        others = [task for task in self._tasks if task is not asyncio.current_task()]
        if others:
            await asyncio.wait(others, timeout=self.core.options.close_timeout)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.notify(Notice("error", "work of the client has failed", error=error))

    def _tick(self) -> None:
        self._timer = None
        due = self.core.tick()
        if due is not None:
            self.wake(due)


def _future(
    build: Callable[Concatenate[Verbs, P], Outcome[T]],
) -> Callable[Concatenate[Client, P], asyncio.Future[T]]:
    """Return the method that asks what *build* asks, and returns a Future."""

    @wraps(build)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        return self._driver.wait(build(self._verbs, *args, **kwargs))

    return method


class Client(BaseClient[AsyncioDriver]):
    """A client of the broker; ``async with`` connects and closes it.

    Args:
        url: of the native dialect, as in ``ws://localhost:8000/owlmeans``.
        token: the credential, or a function that returns it, or something to await; it is asked with each attempt.
        settings: those of ``Options``, by their names.
    """

    def __init__(self, url: str, *, token: Token = None, **settings: Unpack[Settings]) -> None:
        super().__init__(AsyncioDriver(token, monotonic), Options(url, **settings), monotonic, random)

    connect = _future(Verbs.connect)
    settled = _future(Verbs.settled)
    whoami = _future(Verbs.whoami)
    publish = _future(Verbs.publish)
    batch = _future(Verbs.batch)
    read = _future(Verbs.read)
    ack = _future(Verbs.ack)
    cursors = _future(Verbs.cursors)
    members = _future(Verbs.members)
    call = _future(Verbs.call)
    procedures = _future(Verbs.procedures)
    enqueue = _future(Verbs.enqueue)
    queue = _future(Verbs.queue)
    retry = _future(Verbs.retry)
    drop = _future(Verbs.drop)
    get = _future(Verbs.get)
    set = _future(Verbs.set)
    patch = _future(Verbs.patch)
    increment = _future(Verbs.increment)
    delete = _future(Verbs.delete)
    range = _future(Verbs.range)

    async def close(self) -> None:
        """Close the connection; what is under way ends with ``Closed``."""
        await self._driver.wait(self._verbs.close())
        await self._driver.finish()

    def refresh(self, token: str) -> asyncio.Future[None]:
        """Show another credential of the same principal, which says when the connection ends."""
        return self._driver.wait(self._core.refresh(token))

    async def __aenter__(self) -> Client:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
