"""The command ``txbroker``, as the operator of a daemon gives it."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.daemon import Daemon, clean_environ
from tests.support.processes import Program

TXBROKER = Path(sys.executable).with_name("txbroker")


def begin(daemon: Daemon, *words: str | Path) -> Program:
    """Start ``txbroker`` with *words*, for the store of *daemon*."""
    environ = {**clean_environ(daemon.directory), "STATE_DIRECTORY": str(daemon.directory)}
    return Program.start([TXBROKER, *words], env=environ, cwd=daemon.directory)


async def txbroker(daemon: Daemon, *words: str | Path) -> str:
    """Return what ``txbroker`` says with *words*, which must succeed, for the store of *daemon*."""
    program = begin(daemon, *words)
    assert await program.exit() == 0, program.report()
    return "\n".join(program.lines)
