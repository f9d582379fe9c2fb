"""``make release-check``: build the archives of this commit, and try the wheel on each Python.

The archives are left in ``dist``.  What could not be tried is said, and the last line names
only what was.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from release.interpreters import ADVICE, VERSIONS, interpreter

ROOT = Path(__file__).parent.parent
PROJECTS = (".", "clients/python")  # each makes a source archive and a wheel
MAX_DISTRIBUTIONS = 32
TIMEOUT = 1800.0  # seconds for one command
CLIENT_EXTRAS = ("asyncio", "twisted", "tls", "polling")
IMPORT_CLIENT = """
import importlib, pkgutil, broker.client
names = [each.name for each in pkgutil.iter_modules(broker.client.__path__, "broker.client.")]
print(len([importlib.import_module(name) for name in names]))
"""
# Of the suite: the core within one process, and the installed `twistd broker`, alone and three with a Redis.
SUITES = {
    "not processes and not soak": ("tests/core", "tests/peer"),
    "not soak": ("tests/app/test_tap.py", "tests/bridge/test_events.py"),
}


class Failed(Exception):
    """Something is not as a release must be."""


def run(*words: str | Path, cwd: Path = ROOT, umask: int = 0o022, **environ: str) -> str:
    """Return what a command writes to its standard output."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TXBROKER", "PYTHON"))}
    done = subprocess.run(
        list(words), cwd=cwd, env={**kept, **environ}, umask=umask, capture_output=True, text=True, timeout=TIMEOUT
    )
    if done.returncode:
        raise Failed(f"{' '.join(map(str, words))}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def build(place: Path, umask: int, commit: str) -> list[Path]:
    """Build all archives of *commit* in *place*, of somebody who has *umask*."""
    place.mkdir(parents=True)
    files = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    run_in = place / "source"
    run_in.mkdir()
    subprocess.run(["tar", "-x"], cwd=run_in, input=files, check=True, umask=umask)
    date = run("git", "log", "-1", "--format=%ct", commit).strip()
    constraints = str(ROOT / "release" / "constraints.txt")
    for project in PROJECTS:
        made = ("-m", "build", "--config-setting=pure=yes", "--outdir", place / "dist", project)
        run(sys.executable, *made, cwd=run_in, umask=umask, SOURCE_DATE_EPOCH=date, PIP_CONSTRAINT=constraints)
    return sorted((place / "dist").iterdir())


def build_twice(place: Path) -> list[Path]:
    """Return the archives, which come out the same in two directories and with two umasks."""
    commit = run("git", "rev-parse", "HEAD").strip()
    first = build(place / "a", 0o022, commit)
    second = build(place / "another" / "directory", 0o077, commit)
    for one, other in zip(first, second, strict=True):
        if one.read_bytes() != other.read_bytes():
            raise Failed(f"{one.name} is not the same when it is built again")
    return first


def try_wheel(version: str, python: Path, wheel: Path, sources: Path, place: Path) -> str:
    """Install *wheel* for *python*, run tests of *sources* with what is installed, and return a line about it."""
    run(python, "-m", "venv", place)
    pip = (place / "bin" / "python", "-m", "pip", "--disable-pip-version-check")
    report = run(*pip, "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-", wheel)
    count = len(json.loads(report)["install"])
    if count > MAX_DISTRIBUTIONS:
        raise Failed(f"{version}: pip install brings {count} distributions, more than {MAX_DISTRIBUTIONS}")
    run(*pip, "install", "--quiet", f"{wheel}[redis,tls,test]")
    run(*pip, "check")
    found = []
    for marks, tests in SUITES.items():
        pytest = ("-m", "pytest", "-q", "-n", "2", "-m", marks, *tests)
        found.append(run(place / "bin" / "python", *pytest, cwd=sources).splitlines()[-1])
    return f"{version}: {count} distributions; {'; '.join(found)}"


def try_client(version: str, python: Path, wheel: Path, place: Path) -> str:
    """Install the *wheel* of the client alone for *python*, import all of it, and return a line about it."""
    run(python, "-m", "venv", place)
    pip = (place / "bin" / "python", "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", f"{wheel}[{','.join(CLIENT_EXTRAS)}]")
    run(*pip, "check")
    told = run(place / "bin" / "python", "-c", IMPORT_CLIENT, cwd=place).split()
    return f"{version}: {wheel.name.partition('-')[0]}: {told[0]} modules are imported"


def unpack_tests(archive: Path, place: Path) -> Path:
    """Unpack *archive* without what is installed from the wheel, so that tests find that."""
    with tarfile.open(archive) as tar:
        tar.extractall(place, filter="data")
    (sources,) = place.iterdir()
    for name in ("broker", "protocols", "twisted"):
        shutil.rmtree(sources / name)
    return sources


def check(place: Path) -> list[str]:
    """Build the archives, and return the versions of Python on which the wheel was tried."""
    if changed := run("git", "status", "--porcelain").splitlines():
        print(f"not committed, and not in the archives: {len(changed)} files")
    archives = build_twice(place)
    (ROOT / "dist").mkdir(exist_ok=True)
    for path in archives:
        shutil.copy(path, ROOT / "dist")
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  dist/{path.name}", flush=True)
    return try_versions(archives, place)


def try_versions(archives: Sequence[Path], place: Path) -> list[str]:
    """Try the wheels of *archives* on each Python that is there, say which are not; return those it was tried on."""
    tried = []
    for version in VERSIONS:
        if (python := interpreter(version)) is None:
            print(f"{version}: NOT TRIED, this machine has no Python {version}: {ADVICE.format(version)}", flush=True)
            continue
        wheel, archive = the_one(archives, "txbroker-*.whl"), the_one(archives, "txbroker-*.tar.gz")
        client = the_one(archives, "txbroker_client-*.whl")
        print(try_client(version, python, client, place / f"client{version}"), flush=True)
        sources = unpack_tests(archive, place / f"tests{version}")
        print(try_wheel(version, python, wheel, sources, place / f"python{version}"), flush=True)
        tried.append(version)
    return tried


def the_one(archives: Sequence[Path], pattern: str) -> Path:
    """Return the one of *archives* whose name matches *pattern*.

    Raises:
        Failed: there is none, or there are several.
    """
    found = [path for path in archives if path.match(pattern)]
    if len(found) != 1:
        raise Failed(f"{pattern}: {len(found)} were built")
    return found[0]


def main() -> int:
    """Return the exit status: 1 when something is not as a release must be."""
    with tempfile.TemporaryDirectory(prefix="txbroker-release-") as place:
        try:
            tried = check(Path(place))
        except Failed as failed:
            print(f"release-check failed: {failed}", file=sys.stderr)
            return 1
    print(f"built the same twice, and tried on Python {', '.join(tried) or '(none)'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
