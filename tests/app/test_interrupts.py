"""``txbroker`` is interrupted while it still imports what it needs."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from broker.app.interrupts import INTERRUPTED

# Interrupts itself when the module is imported that its first argument names.
PROGRAM = """
import os, signal, sys

module = sys.argv.pop(1)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from broker.app.entry import main
main()
"""
NOWHERE = ("--url", "http://127.0.0.1:1")


def interrupted(module: str, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, module, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload, no-any-return]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("broker.app.command", ("version",)),
        ("click", ("version",)),
        ("broker.app.commands.topics", ("tail", "t")),
        ("broker.app.client.target", ("tail", "t", *NOWHERE)),
        ("websockets.asyncio.client", ("work", "q", "true", *NOWHERE)),
        ("broker.app.client.doctor", ("doctor", *NOWHERE)),
    ],
)
def test_it_ends_without_a_word(module: str, words: tuple[str, ...]) -> None:
    done = interrupted(module, *words)
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "")


@pytest.mark.processes
def test_a_shell_that_ignores_sigint_for_it_is_obeyed() -> None:
    done = interrupted("click", "version", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert (done.returncode, done.stderr) == (0, "")
