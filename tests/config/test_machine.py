"""How much memory and how many processors there are, by files that look like those of Linux."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.config.machine import memory_bytes, usable_cores

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def a_root(root: Path, cgroup: str, **limits: str) -> str:
    """Make files below *root*; the names of *limits* have ``__`` for a slash and ``_`` for a dot."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in limits.items():
        *folders, file = name.split("__")
        folder = root.joinpath("sys/fs/cgroup", *folders)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file.replace("memory_", "memory.", 1).replace("cpu_", "cpu.", 1)).write_text(text)
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


@pytest.mark.parametrize(
    ("cgroup", "limits", "expected"),
    [
        ("0::/a\n", {"a__cpu_max": "max 100000\n"}, 8),
        ("0::/a/b\n", {"a__b__cpu_max": "max 100000\n", "a__cpu_max": "300000 100000\n"}, 3),
        ("0::/a\n", {"a__cpu_max": "150000 100000\n"}, 2),
        ("0::/a\n", {"a__cpu_max": "10000 100000\n"}, 1),
        ("0::/a\n", {"a__cpu_max": "3200000 100000\n"}, 8),
        ("3:cpu,cpuacct:/a\n", {"cpu__a__cpu_cfs_quota_us": "200000", "cpu__a__cpu_cfs_period_us": "50000"}, 4),
        ("3:cpu,cpuacct:/a\n", {"cpu__a__cpu_cfs_quota_us": "-1", "cpu__a__cpu_cfs_period_us": "50000"}, 8),
        ("3:cpu:/a\n", {"cpu__a__cpu_cfs_quota_us": "100000"}, 8),
        ("nonsense\n", {"cpu_max": "what\n"}, 8),
    ],
)
def test_usable_cores_are_those_it_may_run_on_and_its_cgroup_pays_for(tmp_path, monkeypatch, cgroup, limits, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    usable_cores.cache_clear()
    try:
        assert usable_cores(a_root(tmp_path, cgroup, **limits)) == expected
    finally:
        usable_cores.cache_clear()
