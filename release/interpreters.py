"""The interpreters of Python that a release is tested on, where the machine has them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13")
ADVICE = "`pyenv install {0}`, `uv python install {0}` or `apt-get install python{0}-venv` would bring it"


def candidates(version: str) -> Iterator[Path]:
    """Yield where an interpreter of *version* may be: on the path, of pyenv, of uv."""
    if found := shutil.which(f"python{version}"):
        yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True)
    if uv := shutil.which("uv"):
        told = subprocess.run([uv, "python", "find", version], capture_output=True, text=True)
        if told.returncode == 0:
            yield Path(told.stdout.strip())


def is_of(python: Path, version: str) -> bool:
    """Return whether *python* runs, is of *version*, and can make virtual environments."""
    asked = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        told = subprocess.run([python, "-c", asked], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return told.returncode == 0 and told.stdout.strip() == version


def interpreter(version: str) -> Path | None:
    """Return an interpreter of *version*, or None."""
    return next((python for python in candidates(version) if is_of(python, version)), None)
