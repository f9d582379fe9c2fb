"""What docs/operations/backup.rst tells operators to type works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest_twisted

from tests.conftest import StartDaemon
from tests.support.commands import TXBROKER
from tests.support.daemon import ROOT, Daemon, clean_environ
from tests.support.http_client import get, post
from tests.support.processes import Program

PAGE = ROOT / "docs" / "operations" / "backup.rst"
# In the place of systemctl: a daemon that is told to stop has ended before the next command.
SYSTEMCTL = """#!/bin/sh
test "$1" = stop && kill $DAEMON 2>/dev/null || exit 0
while flock --nonblock --conflict-exit-code 9 "$STATE_DIRECTORY/txbroker.db.lock" true; test $? = 9
do sleep 0.02; done
"""


def blocks() -> Iterator[str]:
    """Yield the commands of each literal block of the page."""
    for piece in PAGE.read_text("utf-8").split("::\n\n")[1:]:
        indented, *_ = piece.split("\n\n")
        yield dedent(indented)


async def type_in(daemon: Daemon, block: str, folder: Path) -> None:
    for name, script in (("systemctl", SYSTEMCTL), ("pip", "#!/bin/sh\n")):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    block = block.replace("/var/lib/txbroker", str(daemon.directory)).replace("/var/backups", str(folder))
    environ = clean_environ(daemon.directory)
    environ |= {"PATH": f"{folder}:{TXBROKER.parent}:{environ['PATH']}", "STATE_DIRECTORY": str(daemon.directory)}
    environ["DAEMON"] = str(daemon.pid) if daemon.running else "none"
    shell = Program.start(["/bin/sh", "-e", "-c", block], env=environ, cwd=folder)
    assert await shell.exit() == 0, shell.report()


@pytest_twisted.ensureDeferred
async def test_each_block_of_the_page_works(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = await start_daemon(TXBROKER_PROTOCOLS="ganomede", TXBROKER_POLL_TIMEOUT_SECONDS="0")
    event = {"clientId": "w", "channel": "ch", "from": "f", "type": "t", "data": {}}
    assert (await post(f"{daemon.url}/events/v1/events", event)).json()["id"] == 1
    commands = list(blocks())
    assert ["systemctl" in block for block in commands] == [False, True, True, True]
    for block in commands:
        await type_in(daemon, block, tmp_path)
    await daemon.start()
    events = (await get(f"{daemon.url}/events/v1/events?clientId=r&channel=ch&after=0")).json()
    assert [each["id"] for each in events] == [1]
    assert len(list(tmp_path.glob("txbroker-*.db"))) == 2
