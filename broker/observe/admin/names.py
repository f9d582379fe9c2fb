"""Topics that somebody listens to here, and what is performed here, as rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from broker.core.parts import Parts
from broker.core.slices import slices_of
from broker.observe.admin.paging import MAX_LOOKED_AT, Page, Query, Row, page_of

MAX_HOLDERS = 10  # that are shown of one name
MAX_SUMMED = 1000  # holders of one name whose calls are counted

TOPIC_SORTS = {"topic": False, "subscribers": True}
SERVICE_SORTS = {"name": False, "kind": False, "performers": True, "in_flight": True}


class Names:
    """Shows the names that clients of this node use.

    Args:
        parts: of the core.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._slices = slices_of(parts.clock)

    async def topics(self, query: Query) -> Page:
        """Return topics and patterns with subscribers."""
        found = list(islice(self._parts.topics.counts(), MAX_LOOKED_AT + 1))
        return await page_of(found, _topic, query, TOPIC_SORTS, ("topic",), self._slices)

    async def services(self, query: Query) -> Page:
        """Return procedures, services, and topics whose streamed requests somebody takes."""
        found = list(islice(self._registrations(), MAX_LOOKED_AT + 1))
        return await page_of(found, _service, query, SERVICE_SORTS, ("name", "kind"), self._slices)

    def _registrations(self) -> Iterator[tuple[str, str, Any]]:
        calls = self._parts.calls
        for kind, registry in (("procedure", calls.performers), ("service", calls.services), ("stream", calls.takers)):
            for name, entry in registry.items():
                yield name, kind, entry


def _topic(found: tuple[str, bool, int]) -> Row:
    topic, is_pattern, subscribers = found
    return {"topic": topic, "pattern": is_pattern, "subscribers": subscribers}


def _service(found: tuple[str, str, Any]) -> Row:
    name, kind, entry = found
    holders = entry.holders
    limits = getattr(entry, "limits", None)
    return {
        "name": name,
        "kind": kind,
        "shared": entry.shared,
        "performers": len(holders),
        "in_flight": sum(len(holder.serving) for holder in holders[:MAX_SUMMED]),  # of all names that they have
        "waiting": len(limits.serving) if limits is not None else 0,
        "sessions": [holder.id for holder in holders[:MAX_HOLDERS] if hasattr(holder, "id")],
    }
