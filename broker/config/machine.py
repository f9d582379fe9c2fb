"""How much memory and how many processors there are for the daemon."""

from __future__ import annotations

import math
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
    for file in _places(Path(root), "memory", "memory.max", "memory.limit_in_bytes"):
        try:
            text = file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text.isdecimal():  # "max" is none
            found.append(int(text))
    return min(found)


@cache
def usable_cores(root: str = "/") -> int:
    """Return how many processors the daemon can use: those it may run on, and no more than its cgroup pays for.

    Args:
        root: where the file system begins.
    """
    found = [float(len(os.sched_getaffinity(0)))]
    for file in _places(Path(root), "cpu", "cpu.max", "cpu.cfs_quota_us"):
        try:
            # Version 2 has both numbers in one file, version 1 in two; see cgroups(7) and the kernel's cgroup-v2.
            words = file.read_text("ascii").split()
            if len(words) == 1:
                words.append(file.with_name("cpu.cfs_period_us").read_text("ascii").strip())
        except (OSError, UnicodeDecodeError):
            continue
        if len(words) == 2 and all(map(str.isdecimal, words)) and int(words[1]):  # "max" and -1 are none
            found.append(int(words[0]) / int(words[1]))
    return max(1, math.ceil(min(found)))


def _places(root: Path, controller: str, name_2: str, name_1: str) -> Iterator[Path]:
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
            top, name = mount, name_2
        elif controller in controllers.split(","):
            top, name = mount / controller, name_1
        else:
            continue
        # In a container the path may be one of the machine: then the top is the container's own.
        place = top / path.strip("/")
        while place != top and top in place.parents:
            yield place / name
            place = place.parent
        yield top / name
