"""Runs tests with the accelerator under sanitizers: ``python -m tests.speedups.sanitize [options of pytest]``.

All memory comes from ``malloc``, so that AddressSanitizer knows where each object ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.speedups.build import SANITIZED, VARIABLE, build

TESTS = (
    "tests/speedups/test_speedups.py",
    "tests/web/ws/test_websocket_fuzz.py",
    "tests/web/ws/test_websocket_rfc6455.py",
)


def library(name: str) -> str:
    """Return the path of a library of gcc's."""
    return subprocess.run(
        ["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True
    ).stdout.strip()


def main(*options: str) -> int:
    """Return pytest's exit status."""
    with tempfile.TemporaryDirectory() as directory:
        environ = {
            **os.environ,
            VARIABLE: str(build(Path(directory), *SANITIZED)),
            # The second library of C++ is for what raises C++ exceptions: re2.
            "LD_PRELOAD": " ".join(map(library, ("libasan.so", "libubsan.so", "libstdc++.so"))),
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",  # the interpreter itself leaves much to its end
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
            "PYTHONMALLOC": "malloc",
        }
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "tests.speedups.sanitized", "-p", "no:xdist"]
        return subprocess.run(
            [*pytest, "-o", "addopts=--import-mode=importlib", *TESTS, *options], env=environ
        ).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
