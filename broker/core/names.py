"""The names that this node holds among the nodes, where there is no other node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from broker.messages import Mail


class LocalNames:
    """Holds any name: there is no other node.  ``cluster.ClusterNames`` is the one of several nodes.

    A name begins with its kind; see ``patterns``.
    """

    async def claim(self, name: str, *, shared: bool, takeover: bool) -> None:
        """Hold *name*; with *takeover*, in the place of a holder on another node that does not respond.

        Raises:
            Taken: another node holds it, and not both share.
        """

    def hold(self, name: str) -> None:
        """Share *name* with all who hold it."""

    def settled(self) -> Deferred[None] | None:
        """Fire when all names that were held so far are known to the other nodes; None: they are."""
        return None

    def release(self, names: Iterable[str]) -> None:
        """Give those of *names* back that nobody here holds any more."""

    def names_of(self, peer: Any) -> Sequence[str]:
        """Return the names of what *peer* performs, takes and consumes."""
        return ()

    def present(self, change: str, client: str, session: str) -> None:
        """Notify the other nodes that a session is ``"online"`` or ``"offline"``; see ``Presence``."""

    async def deliver(self, session: str, mail: Mail) -> bool:
        """Hand *mail* to the session of that id on another node; say whether it took it."""
        return False
