"""What this package needs of the slices into which long work is divided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred


class Slices(Protocol):
    """See ``broker.core.slices.Slices``."""

    now: Callable[[], float]

    def deadline(self) -> float:
        """Return until when work that begins now may go on."""

    def pause(self) -> Deferred[None]:
        """Return what fires in a slice of a later loop iteration."""

    def add(self, go_on: Callable[[], object]) -> None:
        """Call *go_on* in a slice of a later loop iteration."""

    def begin_backlog(self, owner: object) -> None:
        """Let long messages of clients wait until ``end_backlog`` is called."""

    def end_backlog(self, owner: object) -> None:
        """Undo ``begin_backlog``."""
