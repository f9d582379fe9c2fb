"""The JavaScript client in pages of a browser, loaded from the broker."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest_twisted

from tests.support.browser import Browser
from tests.support.chromium import Page, chromium_executable
from tests.support.http_client import post

START = """(async () => {
  const { Client } = await import('%s/v1/client.js');
  window.found = [];
  window.notices = [];
  window.client = new Client('%s/v1/ws', { firstWait: %s, maxWait: 60 });
  client.on('*', ({ kind, reason }) => notices.push([kind, reason]));
  client.subscribe('news', { from: 'start' }, ({ payload }) => found.push(payload));
  client.connect().catch(() => {});
})()"""


@pytest_twisted.async_yield_fixture
async def page() -> AsyncIterator[Page]:
    chromium_executable()
    page = Page("<!doctype html><title>A page</title>")
    yield page
    await page.close()


@pytest_twisted.async_yield_fixture
async def browser(page: Page) -> AsyncIterator[Browser]:
    browser = await Browser().start()
    await browser.send("Page.navigate", url=page.origin)
    await browser.until(f"location.origin === {json.dumps(page.origin)} && document.title === 'A page'")
    yield browser
    await browser.stop()


@pytest_twisted.ensureDeferred
async def test_a_page_misses_nothing_when_the_broker_restarts(page: Page, browser: Browser, start_daemon) -> None:
    daemon = await start_daemon(TXBROKER_ALLOWED_ORIGINS=page.origin)

    async def publish(number: int) -> None:
        assert (await post(f"{daemon.url}/v1/topics/news?durable=1", body=b"%d" % number)).status == 201

    await browser.run(START % (daemon.url, daemon.url, 0.05))
    await publish(1)
    await browser.until("found.length === 1")
    await daemon.kill()
    await daemon.start()
    await publish(2)
    assert await browser.until("found.length === 2 && found") == [1, 2]
    assert await browser.run("client.close().then(() => client.state)") == "stopped"
    assert await browser.run("client.stats().losses") == 1


@pytest_twisted.ensureDeferred
async def test_a_page_comes_back_at_once_when_the_network_is_back(page: Page, browser: Browser, start_daemon) -> None:
    daemon = await start_daemon(TXBROKER_ALLOWED_ORIGINS=page.origin)
    await browser.run("Math.random = () => 0.99")
    await browser.run(START % (daemon.url, daemon.url, 60))  # it would wait for a minute
    await browser.until("client.state === 'ready'")
    await daemon.restart()
    await browser.until("client.state === 'waiting'")
    await browser.run("dispatchEvent(new Event('online'))")
    await browser.until("client.state === 'ready'")


@pytest_twisted.ensureDeferred
async def test_a_page_of_another_origin_is_told_what_may_be_the_cause(
    page: Page, browser: Browser, start_daemon
) -> None:
    daemon = await start_daemon(TXBROKER_ALLOWED_ORIGINS=page.origin)
    other = await start_daemon()
    await browser.run(START % (daemon.url, other.url, 60))
    kind, reason = await browser.until("notices[1]")
    assert (kind, "TXBROKER_ALLOWED_ORIGINS" in reason) == ("waiting", True)
