"""Those who follow a topic by server-sent events, a browser and curl, miss nothing when the broker restarts."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol

from tests.support.chromium import Page, chromium_executable, visit
from tests.support.daemon import Daemon, clean_environ
from tests.support.eventually import eventually
from tests.support.examples import EXAMPLES
from tests.support.http_client import post
from tests.support.processes import Program

SECRET = "s3cret"
FIVE = 5  # events in each life of the broker


async def publish(daemon: Daemon, first: int) -> None:
    """Store five events, the numbers from *first* on."""
    headers = {"Authorization": f"Bearer {SECRET}"}
    for number in range(first, first + FIVE):
        answer = await post(f"{daemon.url}/v1/topics/news?durable=1", body=b"%d" % number, headers=headers)
        assert answer.status == 201


async def live_three_times(daemon: Daemon, received: Sequence[str]) -> None:
    """Publish in three lives of *daemon*, which is stopped and killed between them; wait until all is *received*."""
    await publish(daemon, 0)
    await eventually(lambda: len(received) >= FIVE)
    await daemon.restart()
    await publish(daemon, FIVE)
    await eventually(lambda: len(received) >= 2 * FIVE)
    await daemon.kill()
    await daemon.start()
    await publish(daemon, 2 * FIVE)
    await eventually(lambda: len(received) >= 3 * FIVE)
    assert list(received) == [str(number) for number in range(3 * FIVE)]


@pytest_twisted.async_yield_fixture
async def page() -> AsyncIterator[Page]:
    chromium_executable()
    page = Page((Path(__file__).parent / "event_source.html").read_text())
    yield page
    await page.close()


@pytest_twisted.ensureDeferred
async def test_an_event_source_misses_nothing_and_gets_nothing_twice(page: Page, start_daemon, tmp_path: Path) -> None:
    daemon = await start_daemon(
        TXBROKER_PROTOCOLS="http", TXBROKER_API_SECRET=SECRET, TXBROKER_ALLOWED_ORIGINS=page.origin
    )
    stream = f"{daemon.url}/v1/topics/news?from=start&token={SECRET}"
    end = await visit(f"{page.origin}/#{quote(stream, safe='')}", tmp_path)
    try:
        await live_three_times(daemon, page.said)
    finally:
        await end()


NEEDS_CURL = pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("bash")), reason="curl is missing: apt-get install curl"
)


def follower_of(url: str, directory: Path) -> Program:
    """Start the script of the documentation."""
    command = [str(shutil.which("bash")), str(EXAMPLES / "follow.sh"), url, "news"]
    return Program.start(command, env={**clean_environ(directory), "SECRET": SECRET}, cwd=directory)


@NEEDS_CURL
@pytest_twisted.ensureDeferred
async def test_curl_misses_nothing_and_gets_nothing_twice(start_daemon, tmp_path: Path) -> None:
    daemon = await start_daemon(TXBROKER_PROTOCOLS="http", TXBROKER_API_SECRET=SECRET)
    follower = follower_of(daemon.url, tmp_path)
    try:
        await live_three_times(daemon, follower.lines)
    finally:
        follower.signal(signal.SIGTERM)
        await follower.exit()


class Piece(Protocol):
    """Sends the next part of a stream, and closes the connection."""

    factory: Broken

    def dataReceived(self, data: bytes) -> None:
        self.factory.asked += re.findall(rb"Last-Event-ID: (.*?)\r\n", data)
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        if self.factory.parts:
            self.transport.write(self.factory.parts.pop(0))
            self.transport.loseConnection()


class Broken(Factory):
    """A server whose stream is cut after each of *parts*."""

    def __init__(self, *parts: bytes) -> None:
        self.parts, self.asked = list(parts), list[bytes]()

    def buildProtocol(self, addr: object) -> Any:
        piece = Piece()
        piece.factory = self
        return piece


@NEEDS_CURL
@pytest_twisted.ensureDeferred
async def test_curl_has_what_was_cut_in_the_middle_again(tmp_path: Path) -> None:
    server = Broken(
        b'id: e-0\n\nid: e-1\nevent: news\ndata: {\ndata: "n":1}\n\nid: e-2\nevent: news\nda',
        b'event: broker.gap\ndata: {"from":2,"to":2}\n\nid: e-3\nevent: news\ndata: 3\n\n',
    )
    port: Any = reactor.listenTCP(0, cast(Any, server), interface="127.0.0.1")
    follower = follower_of(f"http://127.0.0.1:{port.getHost().port}", tmp_path)
    try:
        await eventually(lambda: len(follower.lines) == 3)
        assert follower.lines == ['{"n":1}', 'lost: {"from":2,"to":2}', "3"]
        assert server.asked[0] == b"e-1"
    finally:
        follower.signal(signal.SIGTERM)
        await follower.exit()
        await port.stopListening()
