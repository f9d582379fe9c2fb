"""What a daemon says of itself from outside, while a plugin blocks its loop too."""

from __future__ import annotations

import json
import re
import socket
from urllib.parse import urlsplit

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.support.blocking import SIGN
from tests.support.daemon import WITH_METRICS
from tests.support.eventually import TIMEOUT, pause
from tests.support.http_client import get
from tests.support.promtool import checked

pytestmark = [pytest.mark.processes, pytest.mark.alone]
SECONDS = 1.6  # for which the loop is blocked


@pytest.fixture(scope="module")
def daemon_environ():
    dialects = "owlmeans ganomede thinws hpkv microstream http tests.support.blocking:dialect"
    return {"TXBROKER_PROTOCOLS": dialects, **WITH_METRICS}


def value(text, sample):
    """Return the value of *sample*, with its labels."""
    (found,) = re.findall(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    return float(found)


def ask(url, path):
    """Send a request at once, and return what its answer can be read from: the reactor of the test does not run."""
    with socket.create_connection(("127.0.0.1", urlsplit(url).port), timeout=TIMEOUT) as asking:
        asking.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return asking.makefile("rb")


def read_all(file):
    with file:
        return file.read().decode()


@pytest_twisted.ensureDeferred
async def test_the_loop_says_that_it_was_blocked(shared_daemon):
    url, admin = shared_daemon.url, shared_daemon.admin_url
    blocked = ask(url, f"/block?{SECONDS}")
    await shared_daemon.program.line(lambda line: SIGN in line)
    asked = [ask(url, "/ready"), ask(admin, "/metrics")]
    (shared_daemon.directory / "go-on").touch()
    ready, metrics, _ = [await deferToThread(read_all, each) for each in [*asked, blocked]]
    assert ready.startswith("HTTP/1.1 503 ")
    (seconds,) = re.findall(r'"the reactor loop was blocked for (\S+) s"', ready)
    assert float(seconds) >= SECONDS - 0.2
    assert value(metrics, "txbroker_reactor_lag_max_seconds") >= SECONDS - 0.2
    assert value(metrics, "txbroker_ready") == 0.0
    told = await shared_daemon.program.line(lambda line: "was blocked for" in line)
    assert "support/blocking.py" in json.loads(told)["where"]
    while (await get(url + "/ready")).status != 200:
        await pause(0.1)


@pytest_twisted.ensureDeferred
async def test_promtool_accepts_all_that_a_daemon_shows(shared_daemon):
    assert checked("check", "metrics", text=(await get(shared_daemon.admin_url + "/metrics")).text) == ""


@pytest_twisted.ensureDeferred
async def test_each_dialect_has_its_samples_from_the_start(shared_daemon):
    text = (await get(shared_daemon.admin_url + "/metrics")).text
    for dialect in ("owlmeans", "ganomede", "thinws", "hpkv", "microstream", "http", "blocking"):
        for sample in (
            f'txbroker_messages_in_total{{dialect="{dialect}",verb="publish"}}',
            f'txbroker_connections{{dialect="{dialect}"}}',
            f'txbroker_call_seconds_count{{dialect="{dialect}",result="timeout"}}',
            f'txbroker_auth_failures_total{{dialect="{dialect}"}}',
        ):
            assert sample in text, sample
    assert value(text, "txbroker_store_wal_bytes") > 0
    assert "txbroker_redis" not in text
