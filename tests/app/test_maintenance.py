"""``txbroker backup``, ``restore`` and ``compact`` as an operator gives them."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker.app.command import main
from broker.stores.sqlite_file import open_file
from tests.support.commands import TXBROKER
from tests.support.daemon import clean_environ
from tests.support.eventually import TIMEOUT

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A stopped store of 400 KB."""
    path = tmp_path / "state" / "txbroker.db"
    path.parent.mkdir()
    file = open_file(str(path), "fsync", 1.0)
    file.writes.execute("INSERT INTO meta VALUES ('filling', randomblob(400000))")
    file.close()
    return path


@pytest.fixture
def run(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Run:
    """Give the command, with settings; returns status, output and errors."""

    def run(*words: str | Path, **environ: str) -> tuple[int, str, str]:
        for name in [name for name in os.environ if name.startswith("TXBROKER_")]:
            monkeypatch.delenv(name)
        for name, value in ({"STATE_DIRECTORY": str(store.parent)} | environ).items():
            monkeypatch.setenv(name, value)
        status: Any = 0
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            status = end.code
        return (status, *capsys.readouterr())

    return run


def test_a_store_is_saved_restored_and_compacted(run: Run, store: Path, tmp_path: Path) -> None:
    backup = tmp_path / "b.db"
    status, said, errors = run("backup", backup)
    assert (status, said, errors) == (0, f"{backup.stat().st_size} bytes of {store} are saved in {backup}\n", "")
    status, said, errors = run("restore", backup)
    assert (status, errors) == (0, "")
    assert said.startswith(f"{store} is what {backup} has, in a new epoch\nwhat it was before is kept as {store}.repl")
    status, said, errors = run("compact")
    assert (status, errors) == (0, "")
    assert said.startswith(f"{store} had ")


def test_a_machine_without_a_store_is_told_so_for_the_path_it_has(run: Run, store: Path, tmp_path: Path) -> None:
    status, said, errors = run("backup", tmp_path / "b.db", TXBROKER_STORE="sqlite:other.db")
    assert (status, said) == (1, "")
    assert (
        errors == f"txbroker: The backup {tmp_path}/b.db can not be made: there is no store {store.parent}/other.db; "
        "STATE_DIRECTORY or TXBROKER_STORE says where it is.\n"
    )


def test_a_store_that_is_not_there_is_told_with_what_says_where_it_is(run: Run, store: Path, tmp_path: Path) -> None:
    backup = tmp_path / "b.db"
    assert run("backup", backup)[0] == 0
    for words in (("backup", tmp_path / "c.db"), ("restore", backup), ("compact",)):
        status, said, errors = run(*words, TXBROKER_STORE=f"sqlite:{tmp_path}/nowhere/txbroker.db")
        assert (status, said) == (1, "")
        assert f"{tmp_path}/nowhere" in errors
        assert "STATE_DIRECTORY or TXBROKER_STORE says where" in errors
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("words", [("backup", "b"), ("restore", "b"), ("compact",)])
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://localhost", "TXBROKER_STORE is a Redis: save and restore the files of that instead"),
        ("redis+sentinel://localhost/m", "TXBROKER_STORE is a Redis: save and restore the files of that instead"),
        ("memory:", "TXBROKER_STORE is memory: and has no file"),
        (
            "/var/lib/txbroker.db",
            "TXBROKER_STORE: there is no store '/var/lib/txbroker.db': use sqlite: or sqlite:/path",
        ),
        ("sqlite://host/path", "A SQLite store has no host"),
    ],
)
def test_what_has_no_file_ends_with_the_status_2(run: Run, words: tuple[str, ...], url: str, reason: str) -> None:
    status, said, errors = run(*words, TXBROKER_STORE=url)
    assert (status, said, errors.count("\n")) == (2, "", 1)
    assert reason in errors


@pytest.mark.parametrize("words", [("backup",), ("restore",), ("compact", "x"), ("backup", "a", "b")])
def test_wrong_arguments_end_with_the_status_2(run: Run, words: tuple[str, ...]) -> None:
    status, said, errors = run(*words)
    assert (status, said) == (2, "")
    assert "usage: txbroker" in errors


def test_a_file_that_is_there_stays(run: Run, store: Path, tmp_path: Path) -> None:
    (tmp_path / "b.db").write_text("mine")
    status, _, errors = run("backup", tmp_path / "b.db")
    assert status == 1
    assert errors.endswith(": there is a file of that name, which only --overwrite replaces.\n")
    assert (tmp_path / "b.db").read_text() == "mine"
    assert run("backup", "--overwrite", tmp_path / "b.db")[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_behind(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr("broker.stores.sqlite_backup.check_pages", lambda *_: signal.raise_signal(number))
    before = signal.getsignal(signal.SIGTERM)
    assert run("backup", tmp_path / "b.db") == (1, "", "txbroker: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.processes
def test_a_disk_that_becomes_full_leaves_nothing_behind(store: Path, tmp_path: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        [TXBROKER, "backup", tmp_path / "b.db"],
        env={**clean_environ(tmp_path), "STATE_DIRECTORY": str(store.parent)},
        preexec_fn=limited,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"txbroker: The backup {tmp_path}/b.db can not be made: ")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("name", ["backup", "restore", "compact"])
def test_the_help_says_which_store_it_is(run: Run, name: str) -> None:
    status, said, _ = run(name, "--help")
    assert status == 0
    assert "TXBROKER_STORE" in said


def test_names_of_files_need_not_be_utf8(run: Run, tmp_path: Path) -> None:
    backup = os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.db")
    assert [run(command, backup)[::2] for command in ("backup", "restore")] == [(0, ""), (0, "")]
