"""Which client ids have a mailbox: those that were seen, and those of the configuration."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.core.bounded import BoundedDict
from broker.core.lives import life_end
from broker.errors import RateLimited
from broker.interfaces import IStore
from broker.messages import Quota

log = Logger()

SPACE = "client"  # of the store: a key for each client id that was seen
MAX_OPENED = 10000  # client ids whose mailbox is known to be stored
MAX_REFUSED = 100_000  # client ids whose mailbox is yet to be stored
RETRY_DELAY = 1.0  # seconds until those that were refused are stored
RETRIES = 1000  # of them at once


class Mailboxes:
    """Opens mailboxes and knows of them; what is in them is kept by ``queues.Queues``.

    Args:
        store: keeps which there are.
        configured: whether a client id is one of the configuration.
        clock: gives the time.
        life: seconds for which a mailbox is there when its client is not; 0: for ever.
    """

    def __init__(
        self, store: IStore, configured: Callable[[str], bool], clock: IReactorTime, life: float = 0.0
    ) -> None:
        self._store, self._configured, self._clock, self._life = store, configured, clock, life
        self._opened: BoundedDict[str, float] = BoundedDict(MAX_OPENED)  # when each of them ends
        self._refused: BoundedDict[str, Quota | None] = BoundedDict(MAX_REFUSED)  # those that the store did not take
        self._retry: IDelayedCall | None = None
        self._stopped = False

    def open(self, client: str, quota: Quota | None = None) -> None:
        """Give *client* a mailbox for its life from now on; idempotent.  A new one counts against *quota*.

        Where the store is away that is logged and tried again.
        """
        end = life_end(self._store.wall.time(), self._life)
        if self._opened.get(client) != end:
            self._opened[client] = end
            self._refused.pop(client, None)
            self._store.set(SPACE, client, b"", expires=end, quota=quota).addErrback(self._not_opened, client, quota)

    async def has(self, client: str) -> bool:
        """Whether *client* has a mailbox, connected or not.

        Raises:
            Unavailable: the store is away.
        """
        end = self._opened.get(client)
        if (end is not None and not 0 < end <= self._store.wall.time()) or self._configured(client):
            return True
        return await self._store.get(SPACE, client) is not None

    def forget(self) -> None:
        """Notice that the store has lost them: each is stored again when it is opened again."""
        self._opened.clear()

    def stop(self) -> None:
        """Cancel the timer."""
        self._stopped = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _not_opened(self, failure: Failure, client: str, quota: Quota | None) -> None:
        self._opened.pop(client, None)
        if failure.check(RateLimited):
            log.debug("client not remembered: {reason}", reason=str(failure.value))
            return
        if not self._refused:
            log.warn("clients are not remembered yet: {reason}", reason=str(failure.value))
        self._refused[client] = quota
        if self._retry is None and not self._stopped:
            self._retry = self._clock.callLater(RETRY_DELAY, self._open_refused)

    def _open_refused(self) -> None:
        self._retry = None
        some = list(islice(self._refused.items(), RETRIES))
        for client, quota in some:
            self.open(client, quota)
        if len(some) == RETRIES and self._retry is None:
            self._retry = self._clock.callLater(0, self._open_refused)
