"""A disk that fails as a test wants it to, for one process; it needs a C compiler."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.support.preloaded import NoCompiler, compile_library

SOURCE = Path(__file__).with_suffix(".c")


class FaultyDisk:
    """Lets system calls of processes fail that are started with its ``environ``.

    Args:
        directory: where the library and the list of faults are put.
    """

    def __init__(self, directory: Path) -> None:
        try:
            library = compile_library(SOURCE, directory)
        except NoCompiler as error:
            pytest.skip(str(error))
        self._faults = directory / "faults"
        self.environ = {"LD_PRELOAD": str(library), "FAULTS": str(self._faults)}

    def fail(self, *faults: str, error: int = errno.EIO) -> None:
        """Let calls fail with *error*: each of *faults* is "read", "write" or "sync" and how the path ends."""
        beside = self._faults.with_suffix(".new")
        beside.write_text("".join(f"{fault} {error}\n" for fault in faults))
        os.replace(beside, self._faults)

    def heal(self) -> None:
        """Let all go well again."""
        self._faults.unlink()
