"""The accelerator is built where that is possible, and its absence stops nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.speedups.build import compiler

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.processes, pytest.mark.unmeasured]


def built(place: Path, **environ: str) -> list[str]:
    """Return the names of what setup.py compiles."""
    pytest.importorskip("setuptools", minversion="77")
    command = [sys.executable, "setup.py", "-q", "build_ext", f"--build-temp={place}/temp", f"--build-lib={place}/lib"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **environ}, check=True, capture_output=True)
    return [path.name.partition(".")[0] for path in (place / "lib").rglob("*.so")]


def test_a_compiler_that_fails_stops_no_installation(tmp_path: Path) -> None:
    assert built(tmp_path, CC="false") == []


def test_what_is_installed_from_the_sources_has_it(tmp_path: Path) -> None:
    if compiler() is None:
        pytest.skip("there is no compiler")
    assert sorted(built(tmp_path)) == ["_arenas", "_speedups"]


def test_the_wheel_of_a_release_has_nothing_compiled(tmp_path: Path) -> None:
    assert built(tmp_path, PURE_WHEEL="1") == []
