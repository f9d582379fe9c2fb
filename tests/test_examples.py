"""The examples, each started as a reader would, do what they are there to show."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_twisted

from tests.support.browser import Browser
from tests.support.chromium import chromium_executable
from tests.support.daemon import Daemon, clean_environ
from tests.support.eventually import TIMEOUT
from tests.support.http_client import request
from tests.support.node import INTEROP, node_executable
from tests.support.processes import Program

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
Run = Callable[..., Awaitable[Program]]
pytestmark = [pytest.mark.processes, pytest.mark.unmeasured]
MAX_LINES = 80


@pytest.fixture(scope="module")
def daemon_environ() -> dict[str, str]:
    dialects = "owlmeans ganomede thinws hpkv microstream http page:dialect"
    return {"TXBROKER_PROTOCOLS": dialects, "PYTHONPATH": f"{EXAMPLES}:{ROOT}"}


@pytest_twisted.async_yield_fixture
async def run(tmp_path: Path) -> AsyncIterator[Run]:
    """``await run(NAME, **environ)`` starts an example by its command."""
    programs: list[Program] = []

    async def start(name: str, **environ: str) -> Program:
        path = f"{Path(sys.executable).parent}:{Path(node_executable()).parent}:{os.environ['PATH']}"
        environ = {**clean_environ(tmp_path), "PATH": path, "PORT": "0", "TMPDIR": str(tmp_path), **environ}
        programs.append(Program.start([sys.executable, EXAMPLES / "run.py", name], env=environ, cwd=tmp_path))
        return programs[-1]

    yield start
    for program in programs:
        if program.status is None:
            program.signal(signal.SIGTERM)  # so that it ends what it has started
            await program.exit()


async def lines_of(program: Program) -> list[str]:
    assert await program.exit(3 * TIMEOUT) == 0, program.report()
    return program.lines


def test_each_example_is_shorter_than_eighty_lines_and_is_told():
    files = [path for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".js", ".html")]
    files = [path for path in files if not {"node_modules", "build"}.intersection(path.parts)]
    assert {path.name: n for path in files if (n := len(path.read_text().splitlines())) >= MAX_LINES} == {}
    page = (EXAMPLES / "README.rst").read_text()
    names = re.findall(r'^    "(\w+)": \(', (EXAMPLES / "run.py").read_text(), re.MULTILINE)
    assert len(names) == 7
    assert [name for name in names if f"python examples/run.py {name}``" not in page] == []


@pytest_twisted.ensureDeferred
async def test_a_python_without_the_broker_is_told_which_one_has_it(tmp_path):
    (tmp_path / "python3").symlink_to(Path(sys.executable).resolve())
    words = [tmp_path / "python3", "-S", EXAMPLES / "run.py", "tour"]
    program = Program.start(words, env=clean_environ(tmp_path), cwd=tmp_path)
    assert await program.exit() == 1, program.report()
    assert "has no broker: `make run` once, then .venv/bin/python" in program.report()
    assert "Traceback" not in program.report()


@pytest_twisted.ensureDeferred
async def test_worker_tries_again_what_fails_and_gives_up_at_last(daemon: Daemon, run: Run):
    lines = await lines_of(await run("worker", BROKER=daemon.url))
    assert [line for line in lines if "slow@" in line] == [
        "failed, try 1: slow@example.com: the mail server does not answer",
        "failed, try 2: slow@example.com: the mail server does not answer",
        "sent, try 3: slow@example.com",
    ]
    assert [line[:13] for line in lines if "nobody@" in line] == [f"failed, try {n}" for n in range(1, 6)]
    assert lines[-1] == "the queue is empty; dead: 1"


@pytest_twisted.ensureDeferred
async def test_consumer_gets_again_what_it_has_not_acknowledged_and_no_more(daemon: Daemon, run: Run):
    assert await lines_of(await run("consumer", BROKER=daemon.url)) == [
        "the first books order 1: 10",
        "the first books order 2: 20",
        "the first books order 3: 30",
        "the first ends: the power has failed before the acknowledgement",
        "the second books order 3: 30",
        "the second books order 4: 40",
        "the second books order 5: 50",
        "booked 150 of 5 orders; the cursor is 0 behind",
    ]


@pytest_twisted.ensureDeferred
async def test_pair_calls_each_other_across_languages_and_dialects(daemon: Daemon, run: Run):
    lines = await lines_of(await run("pair", BROKER=daemon.url, NODE_PATH=str(INTEROP / "node_modules")))
    assert [line for line in lines if line.startswith("shop")] == [
        "shop: a apple is sold at 0.5",
        "shop: a pear is sold at 1.5",  # the double, for prices has asked the shop for its stock
        "shop: a plum has no price: there is no price of a plum",
    ]


@pytest_twisted.ensureDeferred
async def test_tour_crosses_all_dialects(daemon: Daemon, run: Run):
    lines = await lines_of(await run("tour", BROKER=daemon.url))
    received = {name: [line for line in lines if line.startswith(f"{name:11} <")] for name in TOUR}
    assert {name: wanted in "\n".join(received[name]) for name, wanted in TOUR.items()} == dict.fromkeys(TOUR, True)
    assert '"payload":"to the left"' in lines[-1]


TOUR = {
    "owlmeans": '"event":"kv/visitors"',
    "thinws": '"message":{"n":1}',
    "http": 'data: {"n":1}',
    "ganomede": '"id":1',
    "hpkv": '"code":200',
    "microstream": '42["request",',
}


@pytest_twisted.ensureDeferred
async def test_plugin_is_installed_with_its_settings_and_found_by_its_entry_point(run: Run):
    pytest.importorskip("setuptools", minversion="77")
    # Not from a registry: setuptools is here.
    lines = await lines_of(await run("plugin", PIP_NO_BUILD_ISOLATION="false", PIP_NO_INDEX="1"))
    assert lines == [
        'answer 201 {"id":1}',
        "answer 401 the signature is wrong",
        'answer 201 {"id":2}',
        "event  webhook.github 1 push {'ref': 'refs/heads/main'}",
        "event  webhook.github 2 push {'ref': 'refs/tags/v1'}",
    ]


@pytest_twisted.async_yield_fixture
async def browsers() -> AsyncIterator[Callable[[], Awaitable[Browser]]]:
    """Starts browsers of their own each; a test is skipped where there is none."""
    chromium_executable()
    started: list[Browser] = []

    async def start() -> Browser:
        started.append(await Browser().start())
        return started[-1]

    yield start
    for browser in started:
        await browser.stop()


async def say(browser: Browser, text: str) -> None:
    await browser.click("input:enabled")
    await browser.type(text)
    await browser.key("Enter", 13)


async def keep_pictures(browser: Browser, name: str) -> None:
    """Keep screenshots where ``TXBROKER_SCREENSHOTS`` says, to look at."""
    if not (directory := os.environ.get("TXBROKER_SCREENSHOTS")):
        return
    for kind, width, height, phone, dark in (("desktop", 1200, 800, False, False), ("phone", 390, 780, True, True)):
        await browser.size(width, height, phone=phone, dark=dark)
        await browser.screenshot(Path(directory) / f"{name}-{kind}.png")


@pytest_twisted.ensureDeferred
async def test_chat_has_history_and_presence_and_comes_back(run: Run, browsers):
    program = await run("chat")
    url = (await program.line(lambda line: line.startswith("open "))).removeprefix("open ")
    ann = await browsers()
    await ann.send("Page.navigate", url=url)
    await say(ann, "Ann")
    await ann.until("document.querySelector('#people')?.textContent === 'Ann'")
    await say(ann, "<b>Is</b> anybody here?")
    await ann.until("document.querySelectorAll('#log li').length === 1")
    bob = await browsers()
    await bob.send("Page.navigate", url=url)
    await say(bob, "Bob")
    await bob.until("document.querySelector('#log strong + span')?.textContent === '<b>Is</b> anybody here?'")
    for browser in (ann, bob):
        await browser.until(
            "[...document.querySelectorAll('#people li')].map((one) => one.textContent).sort() == 'Ann,Bob'"
        )
    await say(bob, "I am.")
    await ann.until("document.querySelectorAll('#log li').length === 2")
    await keep_pictures(ann, "chat")
    await bob.stop()
    await ann.until("document.querySelector('#people')?.textContent === 'Ann'")
    assert ann.troubles == []
    program.signal(signal.SIGTERM)
    assert await program.exit(3 * TIMEOUT) == 0, program.report()
    await ann.until("document.querySelector('#state').textContent.startsWith('away')")


@pytest_twisted.ensureDeferred
async def test_dashboard_shows_keys_as_they_change_and_go(daemon: Daemon, run: Run, browsers):
    program = await run("dashboard", BROKER=daemon.url, PAUSE="0.01")
    url = (await program.line(lambda line: line.startswith("open "))).removeprefix("open ")
    browser = await browsers()
    await browser.send("Page.navigate", url=url)
    names = ("orders", "revenue", "stock · apples", "stock · pears", "stock · plums", "visitors")
    shown = "[...document.querySelectorAll('article')].map((one) => one.children[%d].textContent)"
    await browser.until(f"{shown % 0}.join() === '{','.join(names)}'")
    await browser.until("document.querySelector('polyline').points.length === 60")
    await browser.until(f"Number({shown % 1}[0]) > 60 && document.querySelector('#state').textContent === 'live'")
    assert await browser.run("document.querySelectorAll('tbody tr').length") == 8
    await keep_pictures(browser, "dashboard")
    program.signal(signal.SIGTERM)
    assert await program.exit(3 * TIMEOUT) == 0, program.report()
    assert browser.troubles == []
    await daemon.restart()
    assert (await request("DELETE", f"{daemon.url}/v1/keys/shop:revenue")).status == 204
    await browser.until(f"{shown % 0}.join() === '{','.join(name for name in names if name != 'revenue')}'")
    await browser.until("document.querySelector('#state').textContent === 'live'")
