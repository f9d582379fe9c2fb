"""The names that this node holds among the nodes, where there is no other node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

from twisted.internet.defer import Deferred

from broker.messages import Mail


class Claimant:
    """One who is about to hold names among the nodes: used as a context, at whose end he holds them here, or not.

    What he does not hold then is given back, unless others here need it.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End."""

    async def claim(self, name: str, *, shared: bool, takeover: bool) -> None:
        """Hold *name*; with *takeover*, in the place of a holder on another node that does not respond.

        Raises:
            Taken: another node holds it, and not both share.
            Unavailable: the other nodes can not be reached.
        """

    def check(self) -> None:
        """Raise ``Taken`` or ``Unavailable`` when a name that was claimed is not held any more."""


class LocalNames:
    """Holds any name: there is no other node.  ``cluster.ClusterNames`` is the one of several nodes.

    A name begins with its kind; see ``patterns``.
    """

    def claimant(self) -> Claimant:
        """Return what claims names for one who is about to hold them."""
        return NOBODY_ELSE

    def hold(self, name: str) -> None:
        """Share *name* with all who hold it."""

    def settled(self) -> Deferred[None] | None:
        """Fire when all names that were held so far are known to the other nodes; None: they are."""
        return None

    def release(self, names: Iterable[str]) -> None:
        """Give those of *names* back that nobody here holds any more."""

    def stop(self) -> None:
        """Cancel all timers."""

    def names_of(self, peer: Any) -> Sequence[str]:
        """Return the names of what *peer* performs, takes and consumes."""
        return ()

    def present(self, change: str, client: str, session: str) -> None:
        """Notify the other nodes that a session is ``"online"`` or ``"offline"``; see ``Presence``."""

    async def is_elsewhere(self, client: str) -> bool:
        """Whether a session of *client* is connected to another node."""
        return False

    async def deliver(self, session: str, mail: Mail) -> bool:
        """Hand *mail* to the session of that id on another node; say whether it took it."""
        return False


NOBODY_ELSE = Claimant()
