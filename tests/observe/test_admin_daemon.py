"""The admin API of a real daemon: what only sockets show."""

from __future__ import annotations

import json
import subprocess

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.web.client import ResponseNeverReceived

from tests.bridge.clients import Ganomede, OwlMeans
from tests.support.commands import TXBROKER
from tests.support.daemon import WITH_METRICS, clean_environ
from tests.support.eventually import TIMEOUT
from tests.support.http_client import get, post


@pytest.fixture(scope="module")
def daemon_environ():
    return WITH_METRICS


@pytest_twisted.ensureDeferred
async def test_connections_have_the_bytes_that_the_kernel_has_counted_and_are_kicked(daemon):
    api = daemon.admin_url + "/admin/api/"
    client = await OwlMeans.join(daemon)
    await client.subscribe("t" * 200)
    end, rate = reactor.seconds() + TIMEOUT, None
    while rate is None:  # there is one when the connection was looked at twice
        assert reactor.seconds() < end
        (row,) = (await get(api + "connections?q=owlmeans&sort=bytes_in")).json()["items"]
        rate = row["rate"]
    assert (row["transport"], row["address"], row["queue"]) == ("websocket", "127.0.0.1", 0)
    assert row["bytes_in"] > 400
    assert row["bytes_out"] > 100
    answer = await post(api + "kick", {"session": row["id"]})
    assert answer.json() == {"disconnected": 1}
    assert await client.socket.closed() == (1001, "disconnected by an operator")
    assert isinstance(await dropped_poll(daemon, api), ResponseNeverReceived)


async def dropped_poll(daemon, api):
    """Kick a poll that waits, which has no session; return how it ended for its client."""
    poll = Ganomede(daemon).poll("jobs/v1")
    end, found = reactor.seconds() + TIMEOUT, []
    while not found:
        assert reactor.seconds() < end
        found = (await get(api + "connections?q=ganomede")).json()["items"]
    answer = await post(api + "kick", {"connection": found[0]["id"]})
    assert answer.json() == {"disconnected": 1}
    try:
        return await poll
    except ResponseNeverReceived as error:
        return error


@pytest_twisted.ensureDeferred
async def test_the_commands_ask_the_daemon(daemon):
    client = await OwlMeans.join(daemon)
    environ = clean_environ(daemon.directory)
    done = [
        await deferToThread(
            subprocess.run,
            [TXBROKER, *words, "--admin", daemon.admin_url],
            env=environ,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        for words in (["status"], ["sessions", "--json"])
    ]
    assert [(each.returncode, each.stderr) for each in done] == [(0, "")] * 2
    assert "ready           yes" in done[0].stdout
    assert [row["dialect"] for row in json.loads(done[1].stdout)] == ["owlmeans"]
    assert (await post(daemon.admin_url + "/admin/api/log-level", {"level": "debug"})).json() == {"level": "debug"}
    assert (await post(daemon.admin_url + "/admin/api/drain", {})).json() == {"draining": True}
    assert await client.socket.closed() == (1001, "leaving")
    assert (await get(daemon.admin_url + "/ready")).status == 503
