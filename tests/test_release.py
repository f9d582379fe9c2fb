"""``make release-check`` looks for interpreters, and claims nothing of those that are missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from release import check, interpreters

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
