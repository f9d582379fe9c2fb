"""``make release`` says the version everywhere; ``make release-check`` claims nothing of Pythons that are missing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from broker import __version__
from release import check, interpreters, prepare

ROOT = Path(__file__).parent.parent
OWN = "%d.%d" % sys.version_info[:2]
pytestmark = [pytest.mark.processes, pytest.mark.unmeasured]


@pytest.fixture
def nowhere(monkeypatch, tmp_path) -> Path:
    """A machine without any interpreter where one is looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    return tmp_path


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_an_interpreter_is_found_on_the_path_of_pyenv_and_of_uv(nowhere):
    program(nowhere / f"python{OWN}", f'exec {sys.executable} "$@"')
    assert interpreters.interpreter(OWN) == nowhere / f"python{OWN}"
    (nowhere / f"python{OWN}").unlink()
    program(nowhere / f"versions/{OWN}.9/bin/python", f'exec {sys.executable} "$@"')
    assert interpreters.interpreter(OWN) == nowhere / f"versions/{OWN}.9/bin/python"
    (nowhere / f"versions/{OWN}.9/bin/python").unlink()
    program(nowhere / "uv", f'[ "$*" = "python find {OWN}" ] && echo {sys.executable}')
    assert interpreters.interpreter(OWN) == Path(sys.executable)


def test_a_program_of_another_version_or_that_does_not_run_is_none(nowhere):
    program(nowhere / "python3.99", f'exec {sys.executable} "$@"')
    assert interpreters.interpreter("3.99") is None
    program(nowhere / f"python{OWN}", "exit 1")  # as a shim of pyenv whose version is not installed
    assert interpreters.interpreter(OWN) is None


def test_what_is_missing_is_said_and_not_claimed(nowhere, capsys):
    assert check.try_versions([], nowhere) == []
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["3.11", "3.12", "3.13"]
    assert all("NOT TRIED" in line and f"`pyenv install {line[:4]}`" in line for line in lines)


def test_archives_that_differ_are_no_release(monkeypatch, tmp_path):
    def build(place: Path, umask: int, commit: str) -> list[Path]:
        place.mkdir(parents=True)
        (place / "txbroker.whl").write_text(oct(umask))
        return [place / "txbroker.whl"]

    monkeypatch.setattr(check, "build", build)
    monkeypatch.setattr(check, "run", lambda *words: "")
    with pytest.raises(check.Failed, match=r"txbroker\.whl is not the same"):
        check.build_twice(tmp_path)


def git(root: Path, *words: str) -> str:
    own = ("-c", "user.name=ann", "-c", "user.email=ann@test.invalid")
    return subprocess.run(["git", *own, *words], cwd=root, check=True, capture_output=True, text=True).stdout


def commit(root: Path, **changes: str) -> None:
    for name, text in changes.items():
        (root / "changes" / f"+{name}.added.rst").write_text(text)
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "Change it.")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small one, of what a release changes."""
    pytest.importorskip("towncrier")
    if not shutil.which("git"):
        pytest.skip("there is no git")
    for name in ("pyproject.toml", "changes/README.rst", "changes/template.rst", "clients/js/package.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name, text in {
        "broker/__init__.py": f'"""It."""\n\n__version__ = "{__version__}"\n',
        "docs/asyncapi_page.py": "import broker; print(broker.__version__)",
        "docs/page.rst": f"txbroker {__version__} and txbroker-{__version__}-py3, but not x {__version__}\n",
        "CHANGELOG.rst": "Changes\n=======\n\n.. towncrier: the next release begins here\n\nWhat it is\n~~~~~~~~~~\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "--quiet")
    commit(tmp_path, one="It is there.\n")
    return tmp_path


def test_the_first_release_has_its_fragments_and_what_stood_there_before(repository, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(repository))
    prepare.prepare(__version__, repository)
    text = (repository / "CHANGELOG.rst").read_text()
    assert [line for line in text.splitlines() if line and not line.startswith(("=", "-", "~"))] == [
        "Changes",
        ".. towncrier: the next release begins here",
        text.splitlines()[5],
        "Added",
        "* It is there.",
        "What it is",
    ]
    assert text.splitlines()[5].startswith(f"{__version__} (")
    assert not (repository / "changes" / "+one.added.rst").exists()


def test_a_release_has_its_version_everywhere(repository, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(repository))
    prepare.prepare("77.8.9", repository)
    assert '__version__ = "77.8.9"' in (repository / "broker" / "__init__.py").read_text()
    assert json.loads((repository / "clients" / "js" / "package.json").read_text())["version"] == "77.8.9"
    assert (repository / "docs" / "asyncapi.json").read_text() == "77.8.9\n"
    assert (repository / "docs" / "page.rst").read_text() == (
        f"txbroker 77.8.9 and txbroker-77.8.9-py3, but not x {__version__}\n"
    )
    # All is ready to be committed.
    assert git(repository, "diff", "--name-only") == ""


@pytest.mark.parametrize(
    ("version", "why"), [("1.2", "three numbers"), ("v1.2.3", "three numbers"), ("0.0.1", "is before")]
)
def test_what_can_be_no_version_is_refused(repository, version, why):
    with pytest.raises(prepare.Refused, match=why):
        prepare.prepare(version, repository)
    assert git(repository, "status", "--porcelain") == ""


def test_a_release_is_made_once_and_of_what_is_committed(repository, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(repository))
    prepare.prepare("77.8.9", repository)
    with pytest.raises(prepare.Refused, match="not after"):
        prepare.prepare("77.8.9", repository)
    with pytest.raises(prepare.Refused, match="not committed"):
        prepare.prepare("77.8.10", repository)
