"""The time of day of other processes, set by a test: libfaketime comes between them and the C library."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import attrs
import pytest

# The one for programs with threads, where there are both.
PLACES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib*/faketime/libfaketimeMT.so.1")


def library() -> str:
    """Return the path of the library; skip the test where it is missing."""
    found = [path for place in PLACES for path in sorted(glob.glob(place))]
    if not found:
        pytest.skip("libfaketime is missing: apt-get install libfaketime")
    return found[0]


@attrs.define
class FakeTime:
    """One clock on the wall, which may be set; the monotonic one goes on."""

    directory: Path

    @property
    def environ(self) -> dict[str, str]:
        """What a process needs to have this clock."""
        self.ahead(0)
        return {
            "LD_PRELOAD": library(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    @property
    def _file(self) -> Path:
        return self.directory / "faketime"

    def ahead(self, seconds: int) -> None:
        """Let the clock be so many *seconds* before that of the machine, or behind it, from now on."""
        new = self.directory / "faketime.new"
        new.write_text(f"{seconds:+d}s\n")
        os.replace(new, self._file)  # nobody reads half of it
