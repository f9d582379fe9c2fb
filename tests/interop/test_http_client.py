"""The JavaScript client that the broker serves, under Node against a daemon."""

from __future__ import annotations

import json

import pytest
import pytest_twisted

from tests.support.http_client import post

SECRET = "s3cret"


@pytest.fixture(scope="module")
def daemon_environ():
    return {"TXBROKER_PROTOCOLS": "http", "TXBROKER_API_SECRET": SECRET}


@pytest_twisted.ensureDeferred
async def test_it_does_what_the_api_can_do(shared_daemon, node):
    lines = [json.loads(line) for line in await node.run("http_client.mjs", shared_daemon.url, SECRET, "everything")]
    assert lines == [
        ["published", 1],
        ["read", {"n": 1}],
        ["key", "v", None],
        ["conflict", [True, 412, "CONFLICT"]],
        ["sum", "2", 1],
        ["job", {"type": "x"}, 1, {}],
        ["nobody", 404],
    ]


@pytest_twisted.ensureDeferred
async def test_its_streams_go_on_after_a_restart_of_the_broker(daemon, node):
    async def publish(number: int) -> None:
        answer = await post(
            f"{daemon.url}/v1/topics/news?durable=1",
            body=b"%d" % number,
            headers={"Authorization": f"Bearer {SECRET}"},
        )
        assert answer.status == 201

    async def received(number: int) -> None:
        line = await following.line(lambda line: line.startswith("["))
        assert json.loads(line) == ["event", "news", number]

    await publish(1)
    following = node.start("http_client.mjs", daemon.url, SECRET, "follow")
    await received(1)
    await publish(2)
    await received(2)
    await daemon.kill()
    await daemon.start()
    await publish(3)
    await received(3)
