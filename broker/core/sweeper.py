"""Removes what is too old, or was not used for its life, in steps between which others have their turn."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from broker.config.options import Retention
from broker.core.channels import CURSOR
from broker.core.indices import DEFINITION, ROWS, Indices
from broker.core.indices import POSITION as INDEXED
from broker.core.mailboxes import SPACE as CLIENTS
from broker.core.memberships import SPACE as MEMBERSHIPS
from broker.core.notes import SPACE as NOTES
from broker.core.queues import LOG as MAIL
from broker.core.queues import POSITION as DELIVERED
from broker.interfaces import IStore
from broker.patterns import LOG_PREFIX

# The spaces of what ends without use and without a word; expired keys of "kv" are announced instead.
SPACES = (CURSOR, DEFINITION, INDEXED, CLIENTS, MEMBERSHIPS, DELIVERED, NOTES)
KEYS_PER_STEP = 500  # removed at once


class Sweeper:
    """Sweeps a store for all nodes that share it.

    Args:
        store: what is swept.
        clock: lets others work between the steps.
        indices: knows which rows belong to no index any more.
        retention: how long the events of channels are kept.
        mail_seconds: how long messages are kept.
        job_seconds: how long jobs are kept, in flight or not claimed; 0.0: for ever.
    """

    def __init__(
        self,
        store: IStore,
        clock: IReactorTime,
        indices: Indices,
        retention: Retention,
        mail_seconds: float,
        job_seconds: float,
    ) -> None:
        self._store, self._clock, self._indices = store, clock, indices
        self._retention, self._mail_seconds, self._job_seconds = retention, mail_seconds, job_seconds

    async def sweep(self) -> None:
        """Remove what has ended by now."""
        store, kept = self._store, self._retention
        before = store.oldest(kept.seconds) if kept.seconds else 0.0
        for space in SPACES:
            while len(await store.expired(space, KEYS_PER_STEP)) == KEYS_PER_STEP:
                await deferLater(self._clock, 0)
        await self._indices.forget_ended()
        for logs in (LOG_PREFIX, ROWS):
            await store.sweep(logs, before, kept.count)
        await store.sweep(MAIL, store.oldest(self._mail_seconds), 0)
        await store.jobs.sweep(self._job_seconds)
