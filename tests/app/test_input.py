"""The standard input of a command, line by line."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from broker.app.client.input import CHUNK, input_lines
from broker.errors import Invalid


def read(monkeypatch: pytest.MonkeyPatch, path: Path, max_line: int = 10 * CHUNK) -> tuple[list[str], str]:
    """Return the lines, and why there are no more."""
    found: list[str] = []

    async def scenario() -> str:
        try:
            async for line in input_lines(max_line):
                found.append(line)
        except (Invalid, OSError) as error:
            return getattr(error, "message", "") or str(error)
        return ""

    with path.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        return found, asyncio.run(scenario())


def test_lines_may_be_longer_than_a_chunk_and_the_last_needs_no_end(tmp_path, monkeypatch):
    long = "é" * (2 * CHUNK)
    (tmp_path / "lines").write_bytes(f"{long}\n\r\na\r\n{long}\nlast".encode())
    assert read(monkeypatch, tmp_path / "lines") == ([long, "", "a", long, "last"], "")


def test_a_line_without_an_end_is_not_kept(tmp_path, monkeypatch):
    (tmp_path / "lines").write_bytes(b"a\n" + b"x" * (5 * CHUNK))
    assert read(monkeypatch, tmp_path / "lines", 2 * CHUNK) == (
        ["a"],
        f"line 2 of standard input has more than {2 * CHUNK} bytes",
    )


def test_what_is_no_text_is_told_by_its_line(tmp_path, monkeypatch):
    (tmp_path / "lines").write_bytes(b"a\nb\nc\xff\n")
    lines, why = read(monkeypatch, tmp_path / "lines")
    assert lines == ["a", "b"]
    assert why.startswith("line 3 of standard input is no UTF-8: ")


def test_what_can_not_be_read_is_told(tmp_path, monkeypatch):
    with (tmp_path / "lines").open("wb") as file:
        monkeypatch.setattr(sys, "stdin", file)

        async def scenario() -> None:
            with pytest.raises(OSError, match="Bad file descriptor"):
                await anext(input_lines())

        asyncio.run(scenario())
