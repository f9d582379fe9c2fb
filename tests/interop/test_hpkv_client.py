"""The npm package ``@hpkv/websocket-client``, unmodified, against a daemon."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import pytest_twisted

API_KEY = "test-api-key"
QUIET = "--no-warnings"
# The WebSocket of Node itself, which later versions have without asking.
BROWSER = "--no-warnings --experimental-websocket"


@pytest.fixture(scope="module")
def daemon_environ():
    return {"TXBROKER_API_KEYS": f"tests:{API_KEY}"}


class Reports:
    """Runs each script once in each mode, when the first of its cases is asked for."""

    def __init__(self, url):
        self.url = url
        self._runs = {}

    async def of(self, node, script, mode):
        if (script, mode) not in self._runs:
            options = BROWSER if mode == "browser" else QUIET
            lines = await node.run(script, mode, self.url, API_KEY, NODE_OPTIONS=options)
            said = [json.loads(line) for line in lines if line.startswith('{"case":')]
            self._runs[script, mode] = {line["case"]: line["error"] for line in said}
        return self._runs[script, mode]


@pytest_twisted.async_fixture(scope="module")
async def reports(shared_daemon):
    return Reports(shared_daemon.url)


def cases(script):
    """Return the names of the cases that *script* has."""
    text = Path(__file__).with_name(script).read_text("utf-8")
    return re.findall(r"^(?:  |  cases\[)'([^']+)'", text, re.MULTILINE)


API = cases("hpkv_api.js")
SUBSCRIPTION = cases("hpkv_subscription.js")
MORE = cases("hpkv_more.js")


def test_there_are_as_many_cases_as_the_vendor_has():
    assert (len(API), len(SUBSCRIPTION)) == (21, 16)
    assert len(API) + len(SUBSCRIPTION[:15]) + len(SUBSCRIPTION) == 52


@pytest.mark.parametrize("case", API)
@pytest_twisted.ensureDeferred
async def test_api_client(reports, node, case):
    assert (await reports.of(node, "hpkv_api.js", "node"))[case] == ""


@pytest.mark.parametrize("case", SUBSCRIPTION[:15])
@pytest_twisted.ensureDeferred
async def test_subscription_client(reports, node, case):
    assert (await reports.of(node, "hpkv_subscription.js", "node"))[case] == ""


@pytest.mark.parametrize("case", SUBSCRIPTION)
@pytest_twisted.ensureDeferred
async def test_subscription_client_of_a_browser(reports, node, case):
    assert (await reports.of(node, "hpkv_subscription.js", "browser"))[case] == ""


@pytest.mark.parametrize("case", MORE)
@pytest_twisted.ensureDeferred
async def test_what_else_the_client_can_do(reports, node, case):
    assert (await reports.of(node, "hpkv_more.js", "node"))[case] == ""


@pytest_twisted.ensureDeferred
async def test_a_client_that_is_too_fast(start_daemon, node):
    daemon = await start_daemon(TXBROKER_API_KEYS=f"tests:{API_KEY}", TXBROKER_RATE="0.01", TXBROKER_RATE_BURST="10")
    said = await Reports(daemon.url).of(node, "hpkv_throttled.js", "node")
    assert list(said.values()) == [""]
