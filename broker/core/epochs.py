"""The present epoch of the store, also where this node knows none yet, or one that has ended."""

from __future__ import annotations

from broker.interfaces import IStore


async def epoch_of(store: IStore, shown: str | None = None) -> str:
    """Return the present epoch of *store*, to be compared with the one that a client has *shown*, if it has.

    If that is not the one that is known here, or none is, the store is asked: a node that has just been started has
    not reached it yet, and one of several may be the last that learns of a new epoch.

    Raises:
        Unavailable: the store is away.
    """
    if not store.epoch or shown not in (None, store.epoch):
        await store.head("")  # whatever the store answers to, it says its epoch
    return store.epoch
