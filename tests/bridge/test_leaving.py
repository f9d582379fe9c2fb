"""The end of the daemon, as clients of each dialect see it."""

from __future__ import annotations

import signal

import pytest_twisted

from tests.bridge.clients import Ganomede, Hpkv, MicroStream, OwlMeans, ThinWs
from tests.support.daemon import WITH_METRICS

ENDLESS = "600"  # seconds: a test that waits for these fails


@pytest_twisted.ensureDeferred
async def test_at_term_everybody_is_let_go_in_good_order(start_daemon):
    daemon = await start_daemon(TXBROKER_POLL_TIMEOUT_SECONDS=ENDLESS, TXBROKER_DRAIN_SECONDS=ENDLESS, **WITH_METRICS)
    service = await MicroStream.join(daemon, "leaving")
    clients = [await kind.join(daemon) for kind in (OwlMeans, ThinWs, Hpkv)] + [service]
    clients[0].begin("leaving.x")
    await service.request()
    polling = Ganomede(daemon).poll("any")
    await daemon.until_metric("txbroker_polls_waiting", 1)
    daemon.program.signal(signal.SIGTERM)
    answer = await polling
    assert (answer.status, answer.body) == (200, b"[]")
    assert [(await client.socket.closed())[0] for client in clients] == [1001] * 4
    assert await daemon.program.exit() == 0
