"""Values with which no client could do anything are refused."""

from __future__ import annotations

import pytest

from broker.config.settings import Settings

MIB = 1 << 20


def told(**given: str) -> tuple[list[str], list[str]]:
    """Return what is wrong with the settings that are *given*, and what is warned of."""
    settings, problems = Settings.read({f"TXBROKER_{name}": text for name, text in given.items()})
    return problems, [note for note in settings.warnings if "has no effect" not in note]


@pytest.mark.parametrize(
    "name", ["AUTH_TRIES", "TOKEN_SECONDS", "CALL_TIMEOUT_SECONDS", "MAX_CALL_TIMEOUT_SECONDS", "LEASE_SECONDS"]
)
def test_no_time_and_no_tries_at_all_are_refused(name: str) -> None:
    ((problem,), _) = told(**{name: "0"})
    assert problem.startswith(f"TXBROKER_{name}: expected ")
    assert told(**{name: "1"}) == ([], [])


def test_messages_without_room_for_a_credential_are_refused() -> None:
    assert told(MAX_MESSAGE_BYTES="255")[0] == [
        "TXBROKER_MAX_MESSAGE_BYTES: expected 256 at least: else no client could say who it is"
    ]


@pytest.mark.parametrize(
    ("limit", "message", "problem", "warned"),
    [
        ("1000", 0, "TXBROKER_MEMORY_LIMIT_BYTES: expected 1048576 at least, or none: with 1000 bytes", False),
        (str(MIB - 1), 1000, "TXBROKER_MEMORY_LIMIT_BYTES: expected 1048576 at least", False),
        (str(MIB), 0, "", True),
        (str(MIB), MIB + 1, f"TXBROKER_MEMORY_LIMIT_BYTES: {MIB} bytes have no room for one message of ", False),
        (str(2 * MIB), 0, "", False),
        (str(MIB), MIB // 2, "", False),
        ("none", 1 << 40, "", False),
    ],
)
def test_memory_must_have_room_for_a_message(limit: str, message: int, problem: str, warned: bool) -> None:
    given = {"MEMORY_LIMIT_BYTES": limit} | ({"MAX_MESSAGE_BYTES": str(message)} if message else {})
    problems, warnings = told(**given)
    assert [each.startswith(problem) for each in problems] == [True] * bool(problem)
    assert ["TXBROKER_MAX_MESSAGE_BYTES" in each for each in warnings] == [True] * warned
