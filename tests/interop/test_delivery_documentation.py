"""The program of docs/delivery.rst does what the page says."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest_twisted

from tests.support.daemon import Daemon, clean_environ
from tests.support.eventually import eventually
from tests.support.examples import EXAMPLES
from tests.support.http_client import post
from tests.support.processes import Program


def run(daemon: Daemon, directory: Path, *words: str) -> Program:
    command = [sys.executable, str(EXAMPLES / "delivery.py"), daemon.ws("/owlmeans"), *words]
    return Program.start(command, env=clean_environ(directory), cwd=directory)


@pytest_twisted.ensureDeferred
async def test_a_follower_goes_on_where_it_was_after_its_end_and_that_of_the_broker(
    start_daemon, tmp_path: Path
) -> None:
    daemon = await start_daemon()
    first = json.loads(await run(daemon, tmp_path, "publish", "orders", '{"n": 1}', "one").line())
    assert (first["id"], first["duplicate"]) == (1, False)
    follower = run(daemon, tmp_path, "follow", "orders", "place.json")
    assert await follower.line() == '{"n": 1}'
    await eventually((tmp_path / "place.json").exists)  # else it comes once more
    follower.signal(signal.SIGKILL)
    await follower.exit()
    again = await post(f"{daemon.url}/v1/topics/orders?durable=1", body=b"0", headers={"Idempotency-Key": "one"})
    assert json.loads(again.body)["duplicate"] is True
    await post(f"{daemon.url}/v1/topics/orders?durable=1", body=b"2")
    follower = run(daemon, tmp_path, "follow", "orders", "place.json")
    assert await follower.line() == "2"
    assert follower.lines == ["2"]
    follower.signal(signal.SIGKILL)
    await follower.exit()


@pytest_twisted.ensureDeferred
async def test_a_worker_does_the_jobs_of_its_queue(daemon: Daemon, tmp_path: Path) -> None:
    worker = run(daemon, tmp_path, "work", "mail")
    try:
        for key in ("one", "one", "two"):
            await post(f"{daemon.url}/v1/queues/mail?key={key}", body=b'{"to":"%b"}' % key.encode())
        assert await worker.line() == '{"to": "one"} delivery 1'
        assert await worker.line() == '{"to": "two"} delivery 1'
    finally:
        worker.signal(signal.SIGKILL)
        await worker.exit()
