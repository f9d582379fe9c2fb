"""Events that sessions have left behind: published once, when their session or its node is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
from twisted.internet.defer import Deferred

from broker.core.channels import event_lost
from broker.interfaces import IStore
from broker.messages import Event, Quota

SPACE = "testament"  # of the store: a key for each, of the node and the session
PAGE = 100  # that are read at once


class Testament(msgspec.Struct, array_like=True):
    """What is published; each member is that of ``Event``, but for *retain*: see ``IPeer.publish``."""

    topic: str
    name: str
    body: bytes | None
    source: str
    retain: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Testament).decode


class Testaments:
    """Those of all nodes.

    Args:
        store: keeps them.
        node: returns the address of this node.
        knows: says whether this node knows at present which others there are.
        lives: says whether another node is there.
        until_done: does something again and again while the store is away.
        publish: publishes one.
    """

    def __init__(
        self,
        store: IStore,
        node: Callable[[], str],
        knows: Callable[[], bool],
        lives: Callable[[str], Awaitable[bool]],
        until_done: Callable[[Callable[[], Awaitable[object]]], object],
        publish: Callable[[Event, bool], Awaitable[object]],
    ) -> None:
        self._store, self._node, self._knows, self._lives = store, node, knows, lives
        self._until_done, self._publish = until_done, publish

    def keep(self, session: str, testament: Testament, quota: Quota | None = None) -> Deferred[object]:
        """Keep the testament of *session*, in the place of one before."""
        return self._store.set(SPACE, self._key(session), _encode(testament), quota=quota).addCallback(lambda _: None)

    def drop(self, session: str) -> None:
        """Forget that of *session*."""
        self._until_done(partial(self._store.delete, SPACE, self._key(session)))

    def execute(self, session: str, testament: Testament) -> None:
        """Publish that of *session*, which is lost, unless another node has done it."""
        self._until_done(partial(self._execute, self._key(session), testament))

    def recover_soon(self) -> None:
        """Do ``recover`` as soon as that is possible."""
        self._until_done(self.recover)

    async def recover(self) -> None:
        """Publish those of the sessions of nodes that are no more; a no-op while nobody knows which there are."""
        if not self._knows():
            return
        after, dead = "", {self._node(): False}
        while True:
            entries = await self._store.range(SPACE, after, "\U0010ffff", PAGE)
            for key, entry in entries:
                node = key.rpartition(" ")[0]
                if node not in dead:
                    dead[node] = not await self._lives(node)
                if dead[node]:
                    await self._execute(key, _decode(entry.value))
            if len(entries) < PAGE:
                return
            after = entries[-1][0] + "\0"

    async def _execute(self, key: str, testament: Testament) -> None:
        if not await self._store.delete(SPACE, key):
            return
        topic, now = testament.topic, self._store.wall.time()
        event = Event(topic, testament.name, testament.body, testament.source, now)
        await Deferred.fromCoroutine(self._published(event, testament.retain)).addErrback(event_lost, topic)

    async def _published(self, event: Event, retain: bool) -> None:
        await self._publish(event, retain)

    def _key(self, session: str) -> str:
        return f"{self._node()} {session}"
