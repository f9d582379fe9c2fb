"""Which client ids have a mailbox: those that were seen, and those of the configuration."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.core.bounded import BoundedDict
from broker.interfaces import IStore

log = Logger()

SPACE = "client"  # of the store: a key for each client id that was seen
MAX_OPENED = 10000  # client ids whose mailbox is known to be stored


class Mailboxes:
    """Opens mailboxes and knows of them; what is in them is kept by ``queues.Queues``.

    Args:
        store: keeps which there are.
        configured: whether a client id is one of the configuration.
    """

    def __init__(self, store: IStore, configured: Callable[[str], bool]) -> None:
        self._store, self._configured = store, configured
        self._opened: BoundedDict[str, None] = BoundedDict(MAX_OPENED)

    def open(self, client: str) -> None:
        """Give *client* a mailbox from now on; idempotent.

        Where the store is away that is logged, and the next call tries again.
        """
        if client not in self._opened:
            self._opened[client] = None
            self._store.set(SPACE, client, b"").addErrback(self._not_opened, client)

    async def has(self, client: str) -> bool:
        """Whether *client* has a mailbox, connected or not.

        Raises:
            Unavailable: the store is away.
        """
        if client in self._opened or self._configured(client):
            return True
        return await self._store.get(SPACE, client) is not None

    def forget(self) -> None:
        """Notice that the store has lost them: each is stored again when it is opened again."""
        self._opened.clear()

    def _not_opened(self, failure: Failure, client: str) -> None:
        self._opened.pop(client, None)
        log.warn("client not remembered: {reason}", reason=str(failure.value))
