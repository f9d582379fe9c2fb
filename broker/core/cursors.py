"""Cursors as their owners see them: acknowledgements that say what they have done, and lists."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from broker.core.channels import CURSOR, Channels
from broker.core.epochs import epoch_of
from broker.core.pages import decode_cursor
from broker.core.slices import Slices
from broker.errors import Gone, Invalid
from broker.interfaces import IStore
from broker.messages import CursorState, Position, Quota
from broker.patterns import MAX_NAME, pair_key, split_pair

MAX_LISTED = 1000  # cursors
MAX_CLIENTS = 10_000  # client ids that are looked at for one list
END = "\U0010ffff" * (MAX_NAME + 1)  # no name sorts after it


class Cursors:
    """The cursors that clients have stored.

    Args:
        store: has them.
        channels: moves them.
        slices: for long lists.
    """

    def __init__(self, store: IStore, channels: Channels, slices: Slices) -> None:
        self._store, self._channels, self._slices = store, channels, slices

    async def acknowledge(self, client: str, topic: str, position: Position, quota: Quota | None = None) -> bool:
        """Move the cursor of *client* to *position*; say whether that was back.

        Raises:
            Gone: the position is of another epoch than the present one, which is in the error.
            Invalid: it is beyond the newest event.
        """
        present = await epoch_of(self._store, position.epoch)
        if position.epoch != present:
            raise Gone("epoch", present)
        if not 0 <= position.id <= await self._channels.head(topic):
            raise Invalid("id", message="id is beyond the newest event")
        before = await self._channels.acknowledged(client, topic)
        await self._channels.move_cursor(client, topic, position.id, quota, stamped=True)
        return before is not None and before.epoch == position.epoch and position.id < before.id

    async def listed(
        self, own: str, may_use: Callable[[str], Awaitable[bool]], topic: str = ""
    ) -> tuple[list[CursorState], bool]:
        """Return the cursors of *own* and of all clients for whom *may_use* holds, and whether there may be more.

        With *topic*, those of that alone.
        """
        heads: dict[str, int] = {}
        found = await self._of(own, topic, MAX_LISTED, heads)
        first, end = "", self._slices.deadline()
        for _ in range(MAX_CLIENTS):
            following = await self._store.range(CURSOR, first, END, 1)
            if not following:
                return found, False
            client, _ = split_pair(following[0][0])
            if client != own and await may_use(client):
                found += await self._of(client, topic, MAX_LISTED + 1 - len(found), heads)
                if len(found) > MAX_LISTED:
                    return found[:MAX_LISTED], True
            first = pair_key(client, END)
            end = await self._slices.checked(end)
        return found, True

    async def _of(self, client: str, topic: str, limit: int, heads: dict[str, int]) -> list[CursorState]:
        first, last = pair_key(client, topic), pair_key(client, topic or END)
        found = []
        for key, entry in await self._store.range(CURSOR, first, last, limit):
            name, epoch = split_pair(key)[1], self._store.epoch
            position, moved = decode_cursor(entry.value, epoch)
            if name not in heads:
                heads[name] = await self._channels.head(name)
            id = position.id if position.epoch == epoch else 0
            found.append(CursorState(client, name, id, max(0, heads[name] - id), moved))
        return found
