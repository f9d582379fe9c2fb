"""What the core stands on: the store, the bus and the credentials that the settings name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import attrs

from broker.access.principals import Access, make_access
from broker.app.checks import Attempts
from broker.app.store import make_store
from broker.buses import open_bus
from broker.config.settings import Settings
from broker.core.slices import slices_of
from broker.interfaces import IBus, IStore
from broker.observe.metrics import Metrics


@attrs.frozen
class Backends:
    """What was made, none of it started.

    Attributes:
        store: where events and keys live.
        bus: between the nodes.
        access: who clients are, and what they may do.
        metrics: count what the store does, and whatever else is counted.
    """

    store: IStore
    bus: IBus
    access: Access
    metrics: Metrics


def make_backends(reactor: Any, settings: Settings, problems: Iterable[str] = ()) -> Backends:
    """Return the store, the bus and the credentials of *settings*.

    Where there are *problems* already they are not returned, but what else is wrong is found.

    Raises:
        SettingsError: there is no such store or bus, or a file has wrong contents; with everything that is wrong.
    """
    attempts, metrics = Attempts(problems), Metrics(slices_of(reactor).now)
    access = attempts.make("PERMISSIONS_FILE", lambda: make_access(settings))
    store = attempts.make("STORE", lambda: _make_store(reactor, settings, metrics))
    bus = None
    if store is not None or settings.bus != settings.store:  # else the same is wrong with it
        bus = attempts.make("BUS", lambda: _make_bus(reactor, settings))
    attempts.finish()
    return Backends(cast(IStore, store), cast(IBus, bus), cast(Access, access), metrics)


def _make_store(reactor: Any, settings: Settings, metrics: Metrics) -> IStore:
    return make_store(
        reactor,
        settings,
        announce=settings.bus == settings.store,
        observe=metrics.committed,
        failed=metrics.store_failed,
        checkpoint_failed=metrics.checkpoint_failed,
    )


def _make_bus(reactor: Any, settings: Settings) -> IBus:
    return open_bus(
        settings.bus,
        settings.node,
        reactor=reactor,
        prefix=settings.redis_prefix,
        lease=settings.node_lease_seconds,
    )
