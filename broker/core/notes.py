"""What a dialect notes about what a principal has done, for all nodes and for some time."""

from __future__ import annotations

SPACE = "notes"  # of the store
MAX_NOTES = 100_000  # of one principal


def note_key(dialect: str, owner: str, name: str) -> str:
    """Return the key of the note *name*, in which no other principal and no other dialect sees its own."""
    return "\0".join((dialect, owner, name))
