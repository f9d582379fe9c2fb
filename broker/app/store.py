"""The store that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker.config.settings import Settings
from broker.interfaces import IStore
from broker.stores import open_store


def make_store(
    reactor: Any,
    settings: Settings,
    *,
    announce: bool = False,
    observe: Callable[[int, float], object] | None = None,
    failed: Callable[[int], object] | None = None,
    checkpoint_failed: Callable[[], object] | None = None,
) -> IStore:
    """Return the store of *settings*, not yet started; the other arguments are those of ``open_store``.

    Raises:
        Invalid: there is no such store, or Redis support is not installed.
    """
    return open_store(
        settings.store,
        clock=reactor,
        directory=settings.state_directory,
        durability=settings.durability,
        prefix=settings.redis_prefix,
        announce=announce,
        max_bytes=settings.max_store_bytes,
        min_free_bytes=settings.min_free_bytes,
        observe=observe,
        failed=failed,
        checkpoint_failed=checkpoint_failed,
        wait=(settings.redis_wait_replicas, settings.redis_wait_ms),
    )
