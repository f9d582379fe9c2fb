"""The file of a daemon that was killed does not stop the next one."""

import os
import subprocess
import sys
from typing import Any, cast

import pytest

from broker.app.pidfile import remove_stale
from broker.app.tap import Options


@pytest.fixture
def file(tmp_path):
    return tmp_path / "x.pid"


@pytest.fixture
def other():
    """Another process, that has nothing to do with this."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate(b"\n")


def test_own_id_is_that_of_a_run_before(file):
    """The first process of a container is 1 in each run."""
    file.write_text(f"{os.getpid()}\n")
    assert remove_stale(str(file))
    assert not file.exists()


def test_id_of_a_process_that_began_later_is_that_of_one_before(file, other):
    file.write_text(str(other))
    os.utime(file, (1e9, 1e9))
    assert remove_stale(str(file))


def test_id_of_a_process_that_runs_is_kept(file, other):
    file.write_text(str(other))
    assert not remove_stale(str(file))
    assert file.exists()


def test_empty_file_is_left_by_a_power_cut(file):
    file.touch()
    assert remove_stale(str(file))


@pytest.mark.parametrize("text", ["this is no id", "-1", "12x", "99999999"])
def test_what_is_no_id_and_what_is_nobodys_are_left_to_twistd(file, text):
    file.write_text(text)
    assert not remove_stale(str(file))
    assert file.read_text() == text


@pytest.mark.parametrize("path", ["", "/nowhere/x.pid", "/"])
def test_no_file_is_no_error(path):
    assert not remove_stale(path)


def test_options_of_twistd_name_it(file):
    file.write_text(str(os.getpid()))
    options = Options()
    options.parent = cast(Any, {"pidfile": str(file)})
    options.parseOptions([])
    assert not file.exists()
