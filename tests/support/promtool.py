"""Prometheus's own checker of metrics and rules."""

from __future__ import annotations

import shutil
import subprocess

import pytest

MISSING = "promtool is missing: apt-get install --no-install-recommends prometheus"


def checked(*words: str, text: str = "") -> str:
    """Return what ``promtool`` *words* objects to, of *text* on its standard input or of files; "" for nothing."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip(MISSING)
    done = subprocess.run([program, *words], input=text, capture_output=True, text=True, timeout=120, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr
