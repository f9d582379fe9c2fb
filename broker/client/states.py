"""The states of a client's connection, and what does its input and output."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from broker.client.notices import Notice
from broker.client.procedures import Invocation


class State(Enum):
    """Of a client."""

    IDLE = "idle"  #: not started
    CONNECTING = "connecting"
    GREETING = "greeting"  #: it has asked who it is
    READY = "ready"
    WAITING = "waiting"  #: for the next attempt
    CLOSING = "closing"
    STOPPED = "stopped"


class Driver(Protocol):
    """What does the input and output.

    Attributes:
        renewable: whether it can get another credential.
    """

    renewable: bool

    def connect(self, url: str) -> None:
        """Open a connection to *url*, after the end of the one before."""

    def send(self, data: bytes) -> None:
        """Send a text frame."""

    def close(self) -> None:
        """Close the connection in good order; ``disconnected`` follows."""

    def abort(self) -> None:
        """Drop the connection, or the attempt; nothing of it is told any more."""

    def wake(self, when: float) -> None:
        """Call ``tick`` at *when*, or earlier if that was asked for."""

    def renew(self) -> None:
        """Get another credential, and call ``refresh`` with it."""

    def invoke(self, invocation: Invocation) -> None:
        """Run its handler, and answer it."""

    def notify(self, notice: Notice) -> None:
        """Tell the application."""
