"""A real browser without a window, and a page for it."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from tests.support.daemon import clean_environ
from tests.support.processes import Program

OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-sync"),
    *(
        "--no-default-browser-check",
        "--password-store=basic",
        "--mute-audio",
        "--no-proxy-server",
        "--disable-breakpad",
    ),
)


@cache
def _is_whole(program: str) -> bool:
    """Whether *program* starts: it may be about to be installed."""
    return subprocess.run([program, "--version"], capture_output=True, check=False, timeout=60).returncode == 0


def chromium_executable() -> str:
    """Return the machine's Chromium; skip the test where there is none."""
    found = shutil.which("chromium")
    if not found or not _is_whole(found):
        pytest.skip("Chromium is missing: apt-get install --no-install-recommends chromium")
    return found


class Page(Resource):
    """Serves one page at ``/``, and takes the lines that it says by POSTs to ``/said``."""

    isLeaf = True

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html.encode()
        self.said: list[str] = []
        self._port = reactor.listenTCP(0, cast(Any, Site(self)), interface="127.0.0.1")

    @property
    def origin(self) -> str:
        host: Any = self._port.getHost()
        return f"http://127.0.0.1:{host.port}"

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
        return self.html

    def render_POST(self, request: Request) -> bytes:
        self.said.append(request.content.read().decode())
        return b""

    async def close(self) -> None:
        await maybeDeferred(self._port.stopListening)


async def visit(url: str, directory: Path) -> Callable[[], Awaitable[object]]:
    """Let a new browser, which keeps what it has in *directory*, open *url*; return what ends it."""
    command = [chromium_executable(), *OPTIONS, f"--user-data-dir={directory}", url]
    browser = Program.start(command, env=clean_environ(directory), cwd=directory)

    async def end() -> None:
        browser.signal(signal.SIGTERM)  # so that it ends its own processes
        await browser.exit()

    return end
