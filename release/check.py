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
from pathlib import Path

from release.interpreters import ADVICE, VERSIONS, interpreter

ROOT = Path(__file__).parent.parent
MAX_DISTRIBUTIONS = 32
TIMEOUT = 1800.0  # seconds for one command
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
    """Build both archives of *commit* in *place*, of somebody who has *umask*."""
    place.mkdir(parents=True)
    files = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    run_in = place / "source"
    run_in.mkdir()
    subprocess.run(["tar", "-x"], cwd=run_in, input=files, check=True, umask=umask)
    date = run("git", "log", "-1", "--format=%ct", commit).strip()
    constraints = str(ROOT / "release" / "constraints.txt")
    made = ("-m", "build", "--outdir", place / "dist")
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
    wheel, archive = sorted(build_twice(place), key=lambda path: path.suffix, reverse=True)
    (ROOT / "dist").mkdir(exist_ok=True)
    for path in (archive, wheel):
        shutil.copy(path, ROOT / "dist")
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  dist/{path.name}", flush=True)
    return try_versions(wheel, archive, place)


def try_versions(wheel: Path, archive: Path, place: Path) -> list[str]:
    """Try *wheel* on each Python that is there, say which are not, and return the versions it was tried on."""
    tried = []
    for version in VERSIONS:
        if (python := interpreter(version)) is None:
            print(f"{version}: NOT TRIED, this machine has no Python {version}: {ADVICE.format(version)}", flush=True)
            continue
        sources = unpack_tests(archive, place / f"tests{version}")
        print(try_wheel(version, python, wheel, sources, place / f"python{version}"), flush=True)
        tried.append(version)
    return tried


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
