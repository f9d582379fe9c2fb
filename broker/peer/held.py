"""What is kept for one client, as the accounts of memory know it."""

from __future__ import annotations

from typing import Protocol

import attrs

from broker.core.memory import Account
from broker.messages import CloseCode


class Disconnectable(Protocol):
    """What is needed of a peer."""

    address: str

    def disconnect(self, code: int, reason: str) -> None:
        """Close the client's connection."""


@attrs.define(eq=False)
class HeldForPeer:
    """The bytes that are kept for one client, as ``memory`` counts them."""

    _peer: Disconnectable
    _account: Account
    _size: int = 0
    _ended: bool = False

    @property
    def address(self) -> str:
        """Where the client comes from."""
        return self._peer.address

    def change(self, change: int) -> None:
        """Count *change* bytes more, or fewer."""
        if not self._ended:
            self._size = max(0, self._size + change)
            self._account.hold(self, self._size)

    def end(self) -> None:
        """Count nothing any more."""
        self.change(-self._size)
        self._ended = True

    def shed(self) -> None:
        """Disconnect the client."""
        self.end()
        self._peer.disconnect(CloseCode.TRY_AGAIN_LATER, "too much waits")
