"""What docs/clients/javascript.rst shows is what its programs print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pytest_twisted

from tests.support.daemon import Daemon
from tests.support.node import INTEROP, Node

ROOT = INTEROP.parent.parent
BLOCK = r"\.\. code-block:: %s\n\n((?:    .*\n|\n)+)"
SHOWN = re.compile(BLOCK % "javascript" + r"\n*" + BLOCK % "text")
TEXT = (ROOT / "docs" / "clients" / "javascript.rst").read_text("utf-8")
PROGRAMS = SHOWN.findall(TEXT)


def test_each_program_has_its_output() -> None:
    assert len(PROGRAMS) == TEXT.count("code-block:: javascript") >= 4


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
@pytest_twisted.ensureDeferred
async def test_each_program_prints_what_is_shown(number: int, daemon: Daemon, node: Node, tmp_path: Path) -> None:
    program, output = (re.sub("^    ", "", each, flags=re.MULTILINE).strip("\n") for each in PROGRAMS[number])
    (tmp_path / "txbroker.mjs").write_bytes((ROOT / "clients" / "js" / "txbroker.js").read_bytes())
    (tmp_path / "node_modules").symlink_to(INTEROP / "node_modules")
    (tmp_path / "program.mjs").write_text(program.replace("localhost:8000", f"127.0.0.1:{daemon.port}"), "utf-8")
    assert await node.run(str(tmp_path / "program.mjs")) == output.split("\n")
