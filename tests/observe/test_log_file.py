"""The file of the log: what operators and logrotate do to it."""

import fcntl
import json
import os
import select
import stat
import threading

import pytest
from twisted.logger import LogLevel

from broker.observe.log_file import LogFile
from broker.observe.logs import LogLines, Redaction


@pytest.fixture
def file(tmp_path):
    file = LogFile(str(tmp_path / "x.log"))
    yield file
    file.close()


def mode_of(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_moved_file_is_written_until_it_is_opened_again(tmp_path, file):
    file.write("one\n")
    (tmp_path / "x.log").rename(tmp_path / "x.log.1")
    file.write("two\n")
    file.reopen()
    file.write("three\n")
    assert (tmp_path / "x.log.1").read_text() == "one\ntwo\n"
    assert (tmp_path / "x.log").read_text() == "three\n"


def test_file_that_is_truncated_in_place_is_appended_to_without_a_hole(tmp_path, file):
    file.write("one\n" * 100)
    os.truncate(tmp_path / "x.log", 0)
    file.write("two\n")
    assert (tmp_path / "x.log").read_bytes() == b"two\n"


def test_what_was_there_before_is_kept(tmp_path):
    (tmp_path / "x.log").write_text("old\n")
    file = LogFile(str(tmp_path / "x.log"))
    file.write("new\n")
    file.close()
    assert (tmp_path / "x.log").read_text() == "old\nnew\n"


def test_new_file_has_the_mode_of_the_moved_one_whatever_the_umask(tmp_path, file):
    (tmp_path / "x.log").chmod(0o640)
    (tmp_path / "x.log").rename(tmp_path / "x.log.1")
    before = os.umask(0o077)
    file.reopen()
    os.umask(before)
    assert mode_of(tmp_path / "x.log") == 0o640


def test_file_that_logrotate_has_made_keeps_its_mode(tmp_path, file):
    (tmp_path / "x.log").rename(tmp_path / "x.log.1")
    (tmp_path / "x.log").touch()
    (tmp_path / "x.log").chmod(0o604)
    file.reopen()
    assert mode_of(tmp_path / "x.log") == 0o604


def test_file_descriptor_stays_the_same(file):
    before = file.fileno()
    file.reopen()
    assert file.fileno() == before
    assert not os.get_inheritable(before)


def test_other_directory_of_work_does_not_change_which_file_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = LogFile("x.log")
    monkeypatch.chdir("/")
    file.reopen()
    file.write("one\n")
    file.close()
    assert (tmp_path / "x.log").read_text() == "one\n"


def test_file_that_can_not_be_opened_again_stays_open(tmp_path, file):
    (tmp_path / "x.log").unlink()
    (tmp_path / "x.log").mkdir()
    with pytest.raises(IsADirectoryError):
        file.reopen()
    file.write("goes on\n")
    assert os.fstat(file.fileno()).st_size == len("goes on\n")


def test_pipe_is_written_to(tmp_path):
    read, write = os.pipe()
    file = LogFile(f"/dev/fd/{write}")
    os.close(write)
    file.reopen()
    file.write("one\n")
    file.close()
    assert os.read(read, 100) == b"one\n"
    os.close(read)


def test_pipe_that_nobody_reads_any_more_is_no_error():
    read, write = os.pipe()
    file = LogFile(f"/proc/self/fd/{write}")
    os.close(write)
    os.close(read)
    file.write("lost\n")
    file.close()


def test_named_pipe_that_nobody_reads_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device or address"):
        LogFile(str(tmp_path / "pipe"))


def test_named_pipe_gets_whole_lines_though_its_reader_is_slow(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(read, True)
    file = LogFile(str(tmp_path / "pipe"))
    line = "x" * 300_000 + "\n"  # more than a pipe holds
    writer = threading.Thread(target=lambda: (file.write(line), file.close()))
    writer.start()
    with os.fdopen(read, encoding="ascii") as reader:
        assert reader.read() == line
    writer.join()


def test_name_that_is_no_unicode_is_written(tmp_path, file):
    file.write("a lone surrogate: \ud800\n")
    assert (tmp_path / "x.log").read_bytes() == b"a lone surrogate: \\ud800\n"


def test_large_file_beside_many_old_ones_is_neither_moved_nor_are_they_removed(tmp_path):
    with open(tmp_path / "x.log", "wb") as large:
        large.truncate(300_000_000)
    for number in range(1, 4):
        (tmp_path / f"x.log.{number}").touch()
    file = LogFile(str(tmp_path / "x.log"))
    file.write("one more\n")
    file.reopen()
    file.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.log", "x.log.1", "x.log.2", "x.log.3"]
    assert (tmp_path / "x.log").stat().st_size == 300_000_000 + len("one more\n")


def test_disk_that_is_full_loses_lines_and_nothing_else():
    file = LogFile("/dev/full")
    file.write("lost\n")
    file.flush()
    file.close()


def test_pipe_that_does_not_block_gets_whole_lines():
    read, write = os.pipe()
    os.set_blocking(write, False)
    file = LogFile(f"/dev/fd/{write}")
    os.close(write)
    line = "x" * 300_000 + "\n"
    writer = threading.Thread(target=lambda: (file.write(line), file.close()))
    writer.start()
    with os.fdopen(read, encoding="ascii") as reader:
        assert reader.read() == line
    writer.join()


@pytest.fixture
def pipe():
    """A pipe that holds two pages, with what writes the log into it."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 2 * select.PIPE_BUF)
    file = LogFile(f"/dev/fd/{writing}")
    yield reading, file
    file.close()
    os.close(reading)
    os.close(writing)


def test_a_pipe_that_nobody_reads_holds_up_nobody(pipe, monkeypatch):
    monkeypatch.setattr("broker.observe.log_file.MAX_WAIT_MS", 1)
    reading, file = pipe
    lines = LogLines(file, "info", "json", "n", Redaction())

    def log(text):
        lines({"log_level": LogLevel.info, "log_namespace": "broker", "log_format": text, "log_time": 0.0})

    for number in range(100):
        log(f"{number} {'x' * 1000}")
    assert file.lost > 90
    os.read(reading, 1 << 16)
    log("here again")
    assert file.lost == 0
    told = [json.loads(line) for line in os.read(reading, 1 << 16).splitlines() if line]
    assert [line["msg"] for line in told][-1] == "here again"
    assert told[0]["msg"].endswith("lines of the log were lost: nobody has read the pipe")
    assert told[0]["lost"] > 90
