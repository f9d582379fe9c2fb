"""The page of the admin port: what it may do in a browser, and in a real one that it works."""

from __future__ import annotations

import os
import re
import signal
from itertools import cycle, islice
from pathlib import Path

import pytest
import pytest_twisted

from broker.observe.admin.page_files import PATHS, TYPES, PageFiles
from broker.testing import http_request, make_broker, value_of
from tests.bridge.clients import Ganomede, Hpkv, MicroStream, OwlMeans, ThinWs
from tests.support.browser import Browser
from tests.support.chromium import chromium_executable
from tests.support.daemon import WITH_METRICS
from tests.support.http_client import get, post

SECRET = "für Betreiber allein"
FEW, MANY = 12, 200  # live connections
BUTTON = "[...document.querySelectorAll('#details button')].find((one) => one.textContent === '%s').click()"
PAGE = Path(__file__).parents[2] / "broker/observe/admin/page"
VIEWS = (
    *("connections", "sessions", "topics", "channels", "cursors", "services", "queues", "keys", "tokens"),
    *("refusals", "settings", "nodes", "act", "overview"),
)


def ask(path, method="GET"):
    return value_of(http_request(make_broker(), PageFiles(), method, path))


@pytest.mark.parametrize("path", PATHS[1:])
def test_every_file_comes_with_a_strict_policy(path):
    answer = ask(path)
    headers = dict(answer.headers)
    assert (answer.status, headers["X-Content-Type-Options"]) == (200, "nosniff")
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_all_files_are_served_and_no_others():
    assert {file.name for file in PAGE.iterdir()} == {name or "index.html" for name in TYPES}
    assert [ask(f"/admin/{name}").status for name in ("nothing", "../api.py", "index.html")] == [404] * 3
    assert ask("/admin/", "POST").status == 405
    moved = ask("/admin")
    assert (moved.status, dict(moved.headers)["Location"]) == (308, "/admin/")


@pytest.mark.parametrize("name", [name or "index.html" for name in TYPES])
def test_no_file_has_inline_scripts_styles_or_anything_from_elsewhere(name):
    text = (PAGE / name).read_text("utf-8")
    assert not re.search(
        r"\son\w+=|\sstyle=|<style|javascript:|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text
    )
    assert set(re.findall(r"https?://[^\"' )]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)


async def clients(daemon, number):
    """Return *number* live connections of all dialects, and the requests that wait."""
    joined, waiting = [], []

    async def ganomede():
        waiting.append(Ganomede(daemon).poll("jobs/v1", after=10))
        waiting.append(get(daemon.url + "/v1/topics/news", headers={"accept": "text/event-stream"}))

    names = {OwlMeans: "client", MicroStream: "name"}
    for index, kind in enumerate(islice(cycle((OwlMeans, ThinWs, Hpkv, MicroStream, None)), number)):
        if kind is None:
            await ganomede()
        else:
            named = {names[kind]: f"client-{index}"} if kind in names else {}
            joined.append(await kind.join(daemon, **named))
    return joined, waiting


async def fill(daemon, joined):
    """Let there be something to see in every view."""
    for client in joined:
        if isinstance(client, OwlMeans):
            await client.subscribe("news.*", "orders")
    ganomede = Ganomede(daemon)
    for number in range(5):
        await ganomede.post("jobs/v1", '{"n":%d}' % number)
    await ganomede.poll("jobs/v1", after=2, client="reader")
    await get(ganomede.url("events", channel="jobs/v1", clientId="reader", after=3))
    for client in joined:
        if isinstance(client, Hpkv):
            await client.set("settings/theme", "dark")
            break
    await post(daemon.url + "/v1/queues/mail", {"to": "ann"})
    await Hpkv.watcher(daemon, "settings/theme")
    await post(daemon.admin_url + "/admin/api/publish", {"topic": "<img src=x onerror=alert(1)>", "durable": True})


@pytest.fixture(scope="module")
def daemon_environ():
    return WITH_METRICS


@pytest.fixture
def may_browse(request, soak):
    chromium_executable()
    if not soak and "start_daemon" in request.fixturenames:
        pytest.skip("it starts another daemon and another browser: only with --soak")


@pytest_twisted.async_yield_fixture
async def browser(may_browse):
    browser = await Browser().start()
    yield browser
    await browser.stop()


async def shoot(browser, name):
    """Keep a picture of the page where ``TXBROKER_SCREENSHOTS`` says, if it does."""
    folder = os.environ.get("TXBROKER_SCREENSHOTS")
    if folder:
        await browser.screenshot(Path(folder) / f"{name}.png")


def rows(count="> 0"):
    return f"document.querySelectorAll('tbody tr').length {count}"


@pytest_twisted.ensureDeferred
async def test_a_browser_shows_every_view_and_acts(daemon, browser, soak):
    joined, waiting = await clients(daemon, MANY if soak else FEW)
    await fill(daemon, joined)
    await browser.size(1280, 860)
    await browser.send("Page.navigate", url=daemon.admin_url + "/admin/")
    await browser.until("document.getElementById('live')?.textContent === 'live'")
    await browser.until("document.getElementById('ready').textContent === 'ready'")
    for view in VIEWS:
        await browser.click(f"nav a[data-view={view}]")
        await browser.until(f"document.querySelector('[aria-current=page]').dataset.view === '{view}'")
        await browser.until(f"{rows()} || document.querySelector('form.panel, .tile, .empty:not([hidden])') !== null")
        await shoot(browser, view)
    await search_sort_and_kick(browser)
    await look_at_channels(browser)
    await by_keys(browser)
    for name, size in {"phone": (390, 844), "dark": (1280, 860)}.items():
        await browser.size(*size, phone=name == "phone", dark=name == "dark")
        for view in ("overview", "connections"):
            await browser.run(f"location.hash = '#/{view}'")
            await browser.until("document.querySelector('.tile, tbody tr') !== null")
            await shoot(browser, f"{name}-{view}")
            wide = await browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{view} is wider than the {name}"
    assert browser.troubles == []
    for request in waiting:
        request.addErrback(lambda _: None).cancel()  # nobody reads it
    for client in joined:
        client.socket.abort()


async def search_sort_and_kick(browser):
    await browser.run("location.hash = '#/sessions'")
    await browser.until(rows())
    await browser.click("#search")
    await browser.type("client-0")
    await browser.until(rows("=== 1"))
    await browser.click("tbody tr")
    await browser.until("document.getElementById('details').textContent.includes('news.*')")
    await browser.click("#details-body .danger")
    await browser.click("#confirm-yes")
    await browser.until("document.getElementById('message').textContent.includes('disconnected 1')")
    await browser.until("document.querySelector('.empty').hidden === false")
    await browser.run("location.hash = '#/settings'")
    await browser.until("document.querySelector('td')?.textContent === 'TXBROKER_ADMIN_LISTEN'")
    await browser.click("th button")
    await browser.until("document.querySelector('th').getAttribute('aria-sort') === 'descending'")
    await browser.until("document.querySelector('td').textContent > 'TXBROKER_S'")


async def look_at_channels(browser):
    await browser.run("location.hash = '#/channels'")
    await browser.until("[...document.querySelectorAll('td')].some((cell) => cell.textContent.startsWith('<img'))")
    await browser.click("tbody tr:last-child")
    await browser.run(
        "[...document.querySelectorAll('#details button')].find((one) => one.textContent === 'Peek').click()"
    )
    await browser.until("document.querySelector('#details pre').textContent.includes('payload')")
    await browser.run(
        "[...document.querySelectorAll('#details button')].find((one) => one.textContent === 'Cursors').click()"
    )
    await browser.until("document.getElementById('title').textContent.startsWith('Cursors: ')")


async def by_keys(browser):
    await browser.run("location.hash = '#/topics'")
    await browser.until(rows())
    await browser.key("j")
    await browser.until("document.activeElement.tagName === 'TR'")
    await browser.key("Enter", 13)
    await browser.until("document.getElementById('details').open")
    await browser.key("Escape", 27)
    await browser.until("!document.getElementById('details').open")
    await browser.key("]", 221)
    await browser.until("document.getElementById('title').textContent === 'Channels'")
    await browser.key("/", 191)
    await browser.until("document.activeElement.id === 'search'")
    await browser.type("jo")
    await browser.until(rows("=== 1"))


@pytest_twisted.ensureDeferred
async def test_the_page_asks_for_the_secret_and_notices_that_the_daemon_has_gone(browser, start_daemon):
    daemon = await start_daemon(**WITH_METRICS, TXBROKER_ADMIN_SECRET=SECRET)
    await browser.send("Page.navigate", url=daemon.admin_url + "/admin/")
    for wrong in ("wrong", SECRET):
        await browser.until("document.getElementById('login')?.open")
        await browser.run("document.getElementById('secret').focus()")
        await browser.type(wrong)
        await browser.key("Enter", 13)
    await browser.until("document.getElementById('live').textContent === 'live'")
    daemon.program.signal(signal.SIGKILL)
    await browser.until("document.getElementById('live').textContent === 'not live'")
