"""The archives of the broker and of its client: what they have, and that they come out the same anywhere."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILD = (
    "import sys; sys.path.insert(0, sys.argv[1]); import reproducible as backend; place = sys.argv[2];"
    " backend.build_sdist(place); backend.build_wheel(place, {'pure': 'yes'})"
)
PROJECTS = {".": "release", "clients/python": "."}  # each with where its backend is
DATE = 1_700_000_000  # seconds since the epoch
pytestmark = [pytest.mark.processes, pytest.mark.unmeasured]


def tracked() -> list[str]:
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("this is no clone")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    return [name for name in listed if (ROOT / name).exists()]


def built(place: Path, umask: int, names: list[str]) -> Path:
    """Build in a copy at *place*, since a build leaves files behind, of one who has *umask*; return the directory."""
    before = os.umask(umask)
    try:
        for name in names:
            (place / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / "copy" / name)
            (place / "copy" / name).chmod(((ROOT / name).stat().st_mode | 0o66) & ~umask & 0o777)
        environ = {**os.environ, "SOURCE_DATE_EPOCH": str(DATE)}
        for project, backend in PROJECTS.items():
            command = [sys.executable, "-c", BUILD, backend, str(place)]
            subprocess.run(command, cwd=place / "copy" / project, env=environ, check=True, capture_output=True)
    finally:
        os.umask(before)
    return place


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> Path:
    pytest.importorskip("setuptools", minversion="77")
    return built(tmp_path_factory.mktemp("one"), 0o022, tracked())


def test_the_source_archive_has_every_file_of_the_repository(archives):
    (archive,) = archives.glob("txbroker-*.tar.gz")
    with tarfile.open(archive) as tar:
        packed = {member.name.partition("/")[2] for member in tar.getmembers()}
    assert set(tracked()) - packed == set()


def test_archives_are_the_same_from_another_directory_and_of_another_umask(archives, tmp_path):
    other = built(tmp_path / "somewhere" / "else", 0o077, tracked()[::-1])
    assert len(digests(archives)) == 4
    assert digests(other) == digests(archives)


def test_archives_say_nothing_of_who_made_them(archives):
    for archive in archives.glob("*.tar.gz"):
        with tarfile.open(archive) as tar:
            about = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar.getmembers()}
        assert about == {(DATE, 0, 0, "", "", 0o644), (DATE, 0, 0, "", "", 0o755)}, archive.name
    for wheel in archives.glob("*.whl"):
        with zipfile.ZipFile(wheel) as packed:
            files = {(m.date_time, oct(m.external_attr >> 16)) for m in packed.infolist()}
        assert files == {((2023, 11, 14, 22, 13, 20), "0o100644")}, wheel.name


def test_the_wheel_has_what_the_broker_imports_and_nothing_else(archives):
    (wheel,) = archives.glob("txbroker-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
    source = {name for name in tracked() if name.startswith(("broker/", "protocols/", "twisted/"))}
    source -= {"broker/_speedups.c", "broker/_arenas.c"}  # what is compiled is for one kind of machine
    client = {f"protocols/http/{name}" for name in ("txbroker.js", "txbroker.d.ts")}  # of clients/js
    assert names == source | client
