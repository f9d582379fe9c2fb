"""A file of variables over the environment."""

import pytest

from broker.config.environment import Environment


@pytest.fixture
def file(tmp_path):
    return tmp_path / "txbroker"


def read(file, text, **environ):
    file.write_text(text)
    return Environment({"TXBROKER_SETTINGS_FILE": str(file), **environ}).read()


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=", ""),
        ("A=b", "b"),
        ("  A=b  ", "b"),
        ("export A=b", "b"),
        ("A='b c'", "b c"),
        ('A="b c"', "b c"),
        ('A="say \\"b\\" \\n"', 'say "b" \\n'),
        ("A=b\\ c", "b c"),
        ("A=b=c#d;e", "b=c#d;e"),
        ("A='b'c\"d\"", "bcd"),
        ("A=redis://h/0?x=1&y=2", "redis://h/0?x=1&y=2"),
        ("# no\n; no\n\nA=b\n# no", "b"),
        ("A=b\nA=c", "c"),
        ("A=b\r", "b"),
    ],
)
def test_line_is_read_as_systemd_reads_it(file, line, value):
    variables, problems = read(file, line)
    assert (variables["A"], problems) == (value, [])


@pytest.mark.parametrize("line", ["A", "A b", "=b", "1A=b", "A=b c", "A='b", 'A="b'])
def test_line_that_is_none_is_told_by_its_number_and_not_repeated(file, line):
    variables, problems = read(file, f"B=c\n{line} s3cret")
    assert "B" in variables
    assert len(problems) == 1
    assert problems[0].startswith(f"TXBROKER_SETTINGS_FILE: {file}:2: expected ")
    assert "s3cret" not in problems[0]


def test_file_goes_before_the_environment(file):
    variables, _ = read(file, "A=file", A="environment", B="environment")
    assert (variables["A"], variables["B"]) == ("file", "environment")


def test_what_the_file_has_no_more_is_not_set_any_more(file):
    """Even when the service manager has put it into the environment, out of the same file."""
    file.write_text("A=1\nB=1\nC=file\n")
    environment = Environment({"TXBROKER_SETTINGS_FILE": str(file), "A": "1", "B": "1", "C": "other"})
    environment.read()
    file.write_text("B=2\n")
    variables, _ = environment.read()
    assert (variables.get("A"), variables["B"], variables["C"]) == (None, "2", "other")


def test_file_is_optional():
    assert Environment({"A": "1"}).read() == ({"A": "1"}, [])


def test_file_that_is_missing_is_left_to_the_checks_of_settings(tmp_path):
    environ = {"TXBROKER_SETTINGS_FILE": str(tmp_path / "none"), "A": "1"}
    assert Environment(environ).read() == (environ, [])


def test_file_that_is_no_text_is_told(file):
    file.write_bytes(b"A=\xff")
    assert Environment({"TXBROKER_SETTINGS_FILE": str(file)}).read()[1] == [
        f"TXBROKER_SETTINGS_FILE: {file} is no text in UTF-8"
    ]
