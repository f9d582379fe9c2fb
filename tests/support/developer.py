"""An application developer, who gives commands to ``txbroker``."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.threads import deferToThread

from broker.app.command import main
from tests.support.daemon import Daemon, clean_environ
from tests.support.processes import Program

SECRET = "the-secret-of-all-clients"


@attrs.define
class Developer:
    """Gives commands: those that end in this process, those that go on in one of their own."""

    daemon: Daemon
    monkeypatch: pytest.MonkeyPatch
    programs: list[Program] = attrs.field(factory=list)

    def environ(self) -> dict[str, str]:
        return {"TXBROKER_URL": self.daemon.url, "TXBROKER_CREDENTIAL": SECRET}

    async def __call__(self, *words: str, text: str = "", **environ: str) -> tuple[int, str, str]:
        """Return the status, and what stands on standard output and standard error."""
        said, errors = io.StringIO(), io.StringIO()
        with self.monkeypatch.context() as patch:
            for name, value in {**self.environ(), **environ}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
            patch.setattr(sys, "stdout", said)
            patch.setattr(sys, "stderr", errors)
            status = await deferToThread(self._run, words)
        return status, said.getvalue(), errors.getvalue()

    def _run(self, words: Sequence[str]) -> int:
        try:
            main(words)
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    async def lines(self, *words: str, text: str = "", **environ: str) -> list[str]:
        """Return the lines that a command prints which succeeds."""
        status, said, errors = await self(*words, text=text, **environ)
        assert (status, errors) == (0, ""), errors
        return said.splitlines()

    async def json(self, *words: str, text: str = "") -> Any:
        """Return what the one line of JSON says."""
        (line,) = await self.lines(*words, "--json", text=text)
        return json.loads(line)

    def start(self, *words: str) -> Program:
        """Start a command that goes on."""
        return self.start_program(str(Path(sys.executable).with_name("txbroker")), *words)

    def start_program(self, *words: str) -> Program:
        """Start another program, with what the commands know of the broker."""
        environ = {**clean_environ(self.daemon.directory), **self.environ()}
        self.programs.append(Program.start(words, env=environ, cwd=self.daemon.directory))
        return self.programs[-1]
