"""What docs/dialects/http.rst shows of curl is what curl shows."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import pytest_twisted

from tests.support.daemon import Daemon, clean_environ
from tests.support.examples import EXAMPLES
from tests.support.http_client import post
from tests.support.processes import Program

PAGE = EXAMPLES.parent / "dialects" / "http.rst"
BLOCK = re.compile(r"^\.\. code-block:: console\n\n((?:    .*\n|\n)+)", re.MULTILINE)
BETWEEN = "-- the next one --"

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="curl is missing: apt-get install curl")


@pytest.fixture(scope="module")
def daemon_environ() -> dict[str, str]:
    return {"TXBROKER_PROTOCOLS": "http"}


def shown() -> list[tuple[str, str]]:
    """Return each command with the output that stands below it."""
    found = []
    for block in BLOCK.findall(PAGE.read_text()):
        text = re.sub("^    ", "", block, flags=re.MULTILINE)
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output.strip()))
    return found


@pytest_twisted.ensureDeferred
async def test_each_command_says_what_is_shown(daemon: Daemon, tmp_path: Path) -> None:
    commands = [command.replace("http://localhost:8000", daemon.url) for command, _ in shown()]
    assert len(commands) > 20
    script = f"\necho; echo '{BETWEEN}'\n".join(commands)
    run = Program.start(
        [str(shutil.which("bash")), "-c", script.replace("curl ", "curl -s ")],
        env=clean_environ(tmp_path),
        cwd=tmp_path,
    )
    await run.exit()
    outputs = "\n".join(run.lines).split(BETWEEN)
    for (command, wanted), output in zip(shown(), outputs, strict=True):
        pattern = ".*".join(map(re.escape, wanted.split("…")))
        assert re.fullmatch(pattern, output.strip()), f"{command}\n{output}"


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
