"""How much memory there is for the daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path


@cache
def memory_bytes(root: str = "/") -> int:
    """Return the bytes that the daemon's cgroup may use, or else the machine has.

    Args:
        root: where the file system begins.
    """
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _limit_files(Path(root)):
        try:
            text = file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text.isdecimal():  # "max" is none
            found.append(int(text))
    return min(found)


def _limit_files(root: Path) -> Iterator[Path]:
    """Yield the files with the limits of the cgroup, of version 2 or 1, and of all it is in."""
    mount = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    # "hierarchy-ID:controller-list:cgroup-path", see cgroups(7); version 2 has the ID 0 and no list.
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            top, name = mount, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = mount / "memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be one of the machine: then the top is the container's own.
        place = top / path.strip("/")
        while place != top and top in place.parents:
            yield place / name
            place = place.parent
        yield top / name
