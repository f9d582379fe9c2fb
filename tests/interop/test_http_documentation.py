"""The worker of docs/dialects/http.rst, a shell script, does jobs."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import pytest_twisted

from tests.support.daemon import Daemon, clean_environ
from tests.support.examples import EXAMPLES
from tests.support.http_client import post
from tests.support.processes import Program

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="curl is missing: apt-get install curl")


@pytest.fixture(scope="module")
def daemon_environ() -> dict[str, str]:
    return {"TXBROKER_PROTOCOLS": "http"}


@pytest_twisted.ensureDeferred
async def test_the_worker_does_jobs_and_says_which_have_failed(daemon: Daemon, tmp_path: Path) -> None:
    command = [
        str(shutil.which("bash")),
        str(EXAMPLES / "worker.sh"),
        daemon.url,
        "mail",
        "grep",
        "--line-buffered",
        "good",
    ]
    worker = Program.start(command, env=clean_environ(tmp_path), cwd=tmp_path)
    try:
        for payload in (b'"bad"', b'"good"'):
            await post(f"{daemon.url}/v1/queues/mail", body=payload)
        (job,) = json.loads(await worker.line(lambda line: "good" in line))
        assert (job["payload"], job["delivery"]) == ("good", 1)
    finally:
        worker.signal(signal.SIGKILL)
        await daemon.kill()  # so that the curl of the worker ends
        await worker.exit()
