"""What this node is and does: its settings, tokens and refusals, and the nodes beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from broker.access.tokens import REVOKED, SPACE
from broker.config.settings import Settings
from broker.core.parts import Parts
from broker.core.slices import slices_of
from broker.interfaces import ISharedBus
from broker.observe.admin.paging import MAX_LOOKED_AT, Page, Query, Row, page_of, stored_page
from broker.observe.metrics import Metrics

HIGHEST = "\U0010ffff"

REFUSAL_SORTS = {"time": True, "address": False, "principal": False, "dialect": False, "code": False}
SETTING_SORTS = {"name": False, "source": False}
TOKEN_SORTS = {"connections": True, "expires": False, "id": False}
NODE_SORTS = {"node": False}


class TokenQuery(Query, kw_only=True):
    """``state``: "live" for the tokens that somebody here lives by, "revoked" for those that are in the store."""

    state: Literal["live", "revoked"] = "live"


class NodeViews:
    """Shows a node.

    Args:
        parts: of its core.
        settings: returns those in effect.
    """

    def __init__(self, parts: Parts, settings: Callable[[], Settings]) -> None:
        self._parts, self._settings = parts, settings
        self._slices = slices_of(parts.clock)

    async def settings(self, query: Query) -> Page:
        """Return the settings in effect, where each came from, secrets masked."""
        rows = [{"name": name, "value": value, "source": source} for name, value, source in self._settings().describe()]
        return await page_of(rows, dict, query, SETTING_SORTS, ("name", "value", "source"), self._slices)

    async def refusals(self, query: Query) -> Page:
        """Return the last refusals of this node, and how many there were by dialect and code."""
        parts = self._parts
        now, wall = parts.clock.seconds(), parts.store.wall.time()

        def row(refusal: Any) -> Row:
            said = {
                name: getattr(refusal, name)
                for name in ("dialect", "address", "principal", "verb", "code", "setting", "name")
            }
            return {"time": round(wall - (now - refusal.time), 3), **said}

        texts = ("address", "principal", "verb", "code", "name", "dialect", "setting")
        page = await page_of(list(parts.refusals.recent), row, query, REFUSAL_SORTS, texts, self._slices)
        counts = [
            {"dialect": dialect, "code": code, "count": number}
            for (dialect, code), number in parts.metrics.refusals.items()
            if number
        ]
        return Page(page.items, page.next, page.total, page.complete, {"counts": counts})

    async def tokens(self, query: TokenQuery) -> Page:
        """Return minted tokens: those in use on this node, or those that were revoked and have not expired."""
        if query.state == "live":
            found = self._parts.lifetimes.tokens(MAX_LOOKED_AT)
            return await page_of(found, _token, query, TOKEN_SORTS, ("id",), self._slices)
        first, last = REVOKED + query.q, REVOKED + query.q + HIGHEST
        if query.after:
            first = max(first, REVOKED + query.after + "\0")
        entries = await self._parts.store.range(SPACE, first, last, query.limit + 1)
        ids = [key.removeprefix(REVOKED) for key, _ in entries]
        rows = [{"id": id, "expires": entry.expires or None} for id, (_, entry) in zip(ids, entries, strict=True)]
        return stored_page(rows, ids, query.limit)

    async def nodes(self, query: Query) -> Page:
        """Return the nodes that share the store and have a lease, as far as this one knows; alone, itself."""
        bus = self._parts.bus
        names = list(cast(ISharedBus, bus).nodes) if bus.shared else [bus.node]
        rows = [{"node": name, "this": name == bus.node} for name in dict.fromkeys([*names, bus.node])]
        for row in rows:
            row["lease"] = not bus.shared or row["node"] in names
        return await page_of(rows, dict, query, NODE_SORTS, ("node",), self._slices)


def totals(metrics: Metrics) -> Mapping[str, float]:
    """Return what was counted since the start, over all dialects, and the gauges of now."""
    return {
        "messages_in": sum(sum(verbs.values()) for verbs in metrics.verbs.values()),
        "messages_out": metrics.messages_out,
        "bytes_in": metrics.bytes_in,
        "bytes_out": metrics.bytes_out,
        "connections": sum(metrics.connections.values()),
        "opened": sum(metrics.opened_total.values()),
        "refusals": sum(metrics.refusals.values()),
        "rate_limited": metrics.rate_limited,
        "slow_consumers": sum(metrics.slow_consumers.values()),
        "store_errors": metrics.store_errors,
    }


def gauges(metrics: Metrics) -> dict[str, float]:
    """Return the gauges of the daemon; one that can not be read is left out."""
    found = {}
    for name, read in metrics.gauges.items():
        try:
            found[name] = float(cast(float, read()))
        except Exception:  # of those that have labels there are several
            continue
    return found


def _token(found: tuple[str, int, float]) -> Row:
    id, connections, expires = found
    return {"id": id, "connections": connections, "expires": expires}
