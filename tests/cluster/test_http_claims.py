"""Jobs of three nodes that are claimed over HTTP."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.support.http_client import post


@pytest.fixture(scope="module")
def daemon_environ():
    return {"TXBROKER_PROTOCOLS": "http"}


@pytest_twisted.ensureDeferred
async def test_a_claim_waits_for_a_job_that_comes_to_another_node(shared_daemon):
    for number in range(6):  # each request comes to another node
        waiting = post(f"{shared_daemon.url}/v1/queues/q/claim?wait=20")
        assert (await post(f"{shared_daemon.url}/v1/queues/q", body=b"%d" % number)).status == 201
        (job,) = (await waiting).json()
        assert job["payload"] == number
        assert (await post(f"{shared_daemon.url}/v1/queues/q/jobs/{job['id']}/done")).status == 200
