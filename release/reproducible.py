"""The build backend: setuptools, whose archives are made the same wherever they are made.

What an archive holds is decided by the files; in which order, of which day and mode, and of
whose user, by nothing else.  The day is ``SOURCE_DATE_EPOCH``, as reproducible-builds.org has
it, or else the first that a ZIP file can tell.

What a compiler makes of the accelerator is not the same everywhere, and for one kind of machine only.  So the wheel of
a release is built with the setting ``pure`` and has none; a wheel that pip builds of the sources has it.
"""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401  # the hooks that stay as they are
    build_editable,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

EARLIEST = 315532800  # 1980-01-01, in seconds: a ZIP file tells no earlier day


def build_sdist(directory: str, settings: dict[str, Any] | None = None) -> str:
    """Make the source archive in *directory* and return its name."""
    name: str = build_meta.build_sdist(directory, settings)
    rewrite_tar(Path(directory, name), source_date())
    return name


def build_wheel(directory: str, settings: dict[str, Any] | None = None, metadata: str | None = None) -> str:
    """Make the wheel in *directory* and return its name; with the setting ``pure`` it has nothing compiled."""
    if settings and settings.get("pure"):
        os.environ["PURE_WHEEL"] = "1"  # for setup.py, which is run in this process
    name: str = build_meta.build_wheel(directory, settings, metadata)
    rewrite_zip(Path(directory, name), source_date())
    return name


def source_date() -> int:
    """Return the time that all files are of, in seconds since the epoch."""
    return max(int(os.environ.get("SOURCE_DATE_EPOCH") or EARLIEST), EARLIEST)


def normal_mode(mode: int) -> int:
    """Return the permissions of a file with *mode*, whatever the umask of who has it was."""
    return 0o755 if mode & stat.S_IXUSR else 0o644


def rewrite_tar(path: Path, date: int) -> None:
    """Write the ``.tar.gz`` at *path* again, sorted, of *date*, of root and without private modes."""
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member)) for member in tar.getmembers()]
        members.sort(key=lambda pair: pair[0].name)
        with (
            path.with_suffix(".new").open("wb") as raw,
            gzip.GzipFile("", "wb", mtime=date, fileobj=raw) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as again,
        ):
            for member, content in members:
                member.mtime, member.mode = date, normal_mode(member.mode)
                member.uid = member.gid = 0
                member.uname = member.gname = ""
                member.pax_headers = {}
                again.addfile(member, content)
    path.with_suffix(".new").replace(path)


def rewrite_zip(path: Path, date: int) -> None:
    """Write the wheel at *path* again, of *date* and without private modes; its order is kept."""
    with (
        zipfile.ZipFile(path) as old,
        zipfile.ZipFile(path.with_suffix(".new"), "w", zipfile.ZIP_DEFLATED) as again,
    ):
        for member in old.infolist():
            file = zipfile.ZipInfo(member.filename, time.gmtime(date)[:6])
            file.external_attr = (stat.S_IFREG | normal_mode(member.external_attr >> 16)) << 16
            file.compress_type = zipfile.ZIP_DEFLATED
            again.writestr(file, old.read(member))
    path.with_suffix(".new").replace(path)
