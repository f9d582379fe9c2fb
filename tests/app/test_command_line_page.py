"""What docs/command-line.rst shows is what the commands print."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator

import pytest
import pytest_twisted

from tests.support.daemon import ROOT, Daemon
from tests.support.developer import Developer
from tests.support.processes import Program

PAGE = ROOT / "docs" / "command-line.rst"
BLOCK = re.compile(r"^\.\. code-block:: console\n\n((?:    .*\n|\n)+)", re.MULTILINE)
SETS = re.compile(r"export \w+=\S+")
GOES_ON = re.compile(r"txbroker (tail|work|kv watch) ")  # these need a process of their own
FED = re.compile(r"echo '([^']*)' \| (.*)")

pytestmark = pytest.mark.unmeasured


def shown() -> Iterator[tuple[str, str]]:
    """Yield each command with what stands below it."""
    for block in BLOCK.findall(PAGE.read_text("utf-8")):
        text = re.sub("^    ", "", block, flags=re.MULTILINE)
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output.strip()


def fits(wanted: str, printed: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, wanted.split("…"))), printed.strip()) is not None


@pytest_twisted.ensureDeferred
async def test_each_command_prints_what_is_shown(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    give = Developer(daemon, monkeypatch)
    going_on: Program | None = None
    count = 0
    for command, wanted in shown():
        count += 1
        if command.endswith(" &"):
            going_on = give.start(*shlex.split(command.removesuffix(" &"))[1:])
            assert fits(wanted, await going_on.line())
        elif command == "kill %1":
            assert going_on is not None
            going_on.signal(signal.SIGTERM)
            assert await going_on.exit() == 0
        elif GOES_ON.match(command):
            program = give.start(*shlex.split(command)[1:])
            assert await program.exit() == 0
            printed = [line for line in program.lines if not is_note(line)]
            assert fits(wanted, "\n".join(printed)), command
        elif SETS.fullmatch(command) is None:
            fed = FED.fullmatch(command)
            text, words = (fed[1] + "\n", fed[2]) if fed else ("", command)
            _, said, errors = await give(*shlex.split(words)[1:], text=text)
            assert fits(wanted, said + errors), f"{command}\n{said}{errors}"
    assert count > 20


def is_note(line: str) -> bool:
    return line.startswith("txbroker: ") or line == "no such month"
