"""What can be said of a block of the documentation without a daemon: settings, permissions, JSON."""

from __future__ import annotations

import json
import shlex
import tempfile
import tomllib
from pathlib import Path

import pytest

from broker.access.permissions import read_permissions
from broker.app.dialects import ENTRY_POINTS
from broker.config.settings import Settings, SettingsError
from tests.support.code_blocks import Block

TEXTS = ("json", "frame", "toml", "settings")


def check_text(block: Block) -> None:
    """Fail if *block* is not what it seems to be, or seems to be nothing that can be checked or run."""
    match block.language:
        case "json" | "frame":
            json.loads(block.text.replace("…", ""))
        case "toml":
            _check_toml(block)
        case "settings":
            assert _settings_problems(block.text) == [], block
        case _:
            pytest.fail(f"{block}: what is this? Give it a language, or say why it is not run")


def _check_toml(block: Block) -> None:
    document = tomllib.loads(block.text)
    if "project" in document:
        assert set(document["project"]["entry-points"]) == {ENTRY_POINTS}, block
        return
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(block.text)
        file.flush()
        read_permissions(Path(file.name), None)


def _settings_problems(text: str) -> list[str]:
    """Return what is wrong with the environment variables *text*, but for files that are not there."""
    words = (word for word in shlex.split(text, comments=True) if "=" in word)
    try:
        Settings.from_environ({"TXBROKER_API_SECRET": "s" * 32, **dict(word.split("=", 1) for word in words)})
    except SettingsError as error:
        return [problem for problem in error.problems if "/etc/" not in problem]
    return []
