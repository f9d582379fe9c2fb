"""How much memory there is, by files that look like those of Linux."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.config.machine import memory_bytes

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def a_root(root: Path, cgroup: str, **limits: str) -> str:
    """Make files below *root*; the names of *limits* have ``__`` for a slash and ``_`` for a dot."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in limits.items():
        *folders, file = name.split("__")
        folder = root.joinpath("sys/fs/cgroup", *folders)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file.replace("memory_", "memory.", 1)).write_text(text)
    return str(root)


@pytest.mark.parametrize(
    ("cgroup", "limits", "expected"),
    [
        ("0::/a/b\n", {"a__b__memory_max": "1000000\n"}, 1_000_000),
        ("0::/a/b\n", {"a__b__memory_max": "max\n", "a__memory_max": "2000000\n"}, 2_000_000),
        ("0::/a/b\n", {"memory_max": "3000000\n"}, 3_000_000),
        ("0::/\n", {"memory_max": "3000000\n"}, 3_000_000),
        ("0::/../x\n", {"memory_max": "3000000\n"}, 3_000_000),
        ("5:cpu,memory:/a\n", {"memory__a__memory_limit_in_bytes": "4000000\n"}, 4_000_000),
        ("5:memory:/gone\n", {"memory__memory_limit_in_bytes": "4000000\n"}, 4_000_000),
        ("5:memory:/\n", {"memory__memory_limit_in_bytes": "9223372036854771712\n"}, MACHINE),
        ("0::/a\n", {"a__memory_max": "max\n"}, MACHINE),
        ("0::/a\n", {}, MACHINE),
        ("nonsense\n", {}, MACHINE),
    ],
)
def test_the_least_of_all_limits_counts(tmp_path, cgroup, limits, expected):
    assert memory_bytes(a_root(tmp_path, cgroup, **limits)) == expected


def test_without_such_files_it_is_the_machine_s(tmp_path):
    assert memory_bytes(str(tmp_path)) == MACHINE
    assert 0 < memory_bytes() <= MACHINE
