"""What docs/clients/python.rst shows is what its programs print."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.support.daemon import Daemon, clean_environ
from tests.support.processes import Program

PAGE = Path(__file__).parent.parent.parent / "docs" / "clients" / "python.rst"
BLOCK = r"\.\. code-block:: %s\n\n((?:    .*\n|\n)+)"
SHOWN = re.compile(BLOCK % "python" + r"\n*" + BLOCK % "text")
pytestmark = [pytest.mark.unmeasured]


def run(program: str) -> list[str]:
    """Run *program*, which has a loop of its own, and return what it prints."""
    printed: list[str] = []
    names = {"print": lambda *words: printed.append(" ".join(map(str, words))), "__name__": "__main__"}
    exec(compile(program, "python.rst", "exec"), names)
    return printed


@pytest_twisted.ensureDeferred
async def test_each_program_prints_what_is_shown(daemon: Daemon, tmp_path: Path) -> None:
    text = PAGE.read_text("utf-8")
    found = SHOWN.findall(text)
    assert len(found) == text.count("code-block:: python") >= 6
    for program, output in found:
        source = re.sub("^    ", "", program, flags=re.MULTILINE).replace("localhost:8000", f"127.0.0.1:{daemon.port}")
        wanted = [each.removeprefix("    ") for each in output.strip("\n").split("\n")]
        if "react(" in source:  # the reactor of this process runs already
            process = Program.start([sys.executable, "-c", source], env=clean_environ(tmp_path), cwd=tmp_path)
            await process.exit()
            assert process.lines == wanted, program
        else:
            assert await deferToThread(run, source) == wanted, program
