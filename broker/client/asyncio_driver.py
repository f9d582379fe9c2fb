"""The input and output of a client on asyncio, by ``websockets``."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from broker.client.connection import ABNORMAL
from broker.client.driver import Driver, Token
from broker.client.errors import ClientError, Invalid
from broker.client.notices import Notice
from broker.client.outcomes import Outcome

T = TypeVar("T")


class _Connection:
    """One connection, or the attempt; without a driver when nobody wants it any more."""

    def __init__(self, driver: AsyncioDriver, url: str, headers: dict[str, str]) -> None:
        """Connect *driver* to *url*."""
        self.driver: AsyncioDriver | None = driver
        self._socket: ClientConnection | None = None
        self._outgoing: deque[bytes] = deque()
        self._more = asyncio.Event()
        self._closing = False
        self._reader = driver.start(self._read(driver, url, headers))

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

    async def _read(self, driver: AsyncioDriver, url: str, headers: dict[str, str]) -> None:
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
                max_size=driver.core.options.max_received_bytes,
                max_queue=None,
                ssl=driver.tls_of(url),
            )
        except InvalidStatus as error:
            self._refused(error)
        except ssl.SSLCertVerificationError as error:
            self._untrusted(error.verify_message or str(error))
        except (OSError, WebSocketException, EOFError, ValueError) as error:
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

    def _untrusted(self, reason: str) -> None:
        driver, self.driver = self.driver, None
        if driver is not None:
            driver.core.untrusted(reason)

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
        self._context: ssl.SSLContext | None = None
        self._tasks: set[asyncio.Task[Any]] = set()  # of connections
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, url: str, headers: dict[str, str]) -> None:
        """Open a connection."""
        self._connection = _Connection(self, url, headers)

    def prepare(self) -> None:
        """Read the certificates that are trusted."""
        try:
            self._context = ssl.create_default_context(cafile=self.core.options.ca_file or None)
        except OSError as error:
            raise Invalid(f"ca_file: {error}") from None

    def tls_of(self, url: str) -> ssl.SSLContext | None:
        """Return how the certificate of *url* is checked; None where there is none."""
        return self._context if url.startswith("wss:") else None

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
        self._timer = self._find_loop().call_later(max(0.0, when - self._clock()), self._tick)

    def rest(self) -> None:
        """Call ``core.tick`` no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def run(self, work: Coroutine[Any, Any, object], ended: Callable[[], object]) -> Callable[[], object]:
        """Run *work*."""
        task = self._find_loop().create_task(work)
        task.add_done_callback(lambda _: ended())
        task.add_done_callback(self._report)
        return task.cancel

    def start(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Run *work* of a connection, and keep it as long as it runs."""
        task = self._find_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._report)
        return task

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call *function* soon, in the loop; a no-op when that is closed."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function)

    def wait(self, outcome: Outcome[T], /) -> asyncio.Future[T]:
        """Return a Future of *outcome*."""
        future: asyncio.Future[T] = self._find_loop().create_future()

        def succeed(result: T) -> None:
            if not future.done():
                future.set_result(result)

        def fail(error: ClientError) -> None:
            if not future.done():
                future.set_exception(error)
                if self.core.end is not None:
                    future.exception()  # nobody has to ask what has become of it, now that the client has ended

        outcome.listen(succeed, fail)
        if not future.done():
            future.add_done_callback(lambda ended: outcome.cancel() if ended.cancelled() else None)
        return future

    async def wait_at_most(self, outcome: Outcome[None], seconds: float) -> None:
        """Wait until *outcome* has ended, or for so many seconds."""
        await asyncio.wait([self.wait(outcome)], timeout=seconds)

    async def end(self) -> None:
        """Wait until all tasks have ended."""
        await self.finish()
        others = self._tasks - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=self.core.options.close_timeout)

    def _find_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop that runs, and remember it."""
        self._loop = asyncio.get_running_loop()
        return self._loop

    def _report(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.notify(Notice("error", "work of the client has failed", error=error))

    def _tick(self) -> None:
        self._timer = None
        self.tick()
