"""Events that sessions have left behind: published when their session or its node is lost, and then forgotten.

A node first notes in the store that it publishes one, so that no other does it while that node lives; then it
publishes, and removes it last.  So each is published at least once, whatever ends in between, and on a stored topic
once: what comes again has the same key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from broker.core.channels import event_lost
from broker.errors import BrokerError, Conflict, Unavailable
from broker.interfaces import IStore
from broker.messages import Entry, Event, Quota

SPACE = "testament"  # of the store: a key for each, of the node and the session
PAGE = 100  # that are read at once


class Testament(msgspec.Struct, array_like=True):
    """What is published; each member is that of ``Event``, but for these.

    Attributes:
        retain: see ``IPeer.publish``.
        executor: the address of the node that publishes it; "": its session is not lost, as far as anybody knows.
    """

    topic: str
    name: str
    body: bytes | None
    source: str
    retain: bool = False
    executor: str = ""
    content_type: str = ""
    binary: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Testament).decode


@attrs.define(eq=False)
class Left:
    """What one session leaves behind.

    Attributes:
        kept: that, once it is stored.
        number: which of its changes has led to it.
        changes: how often it was asked for, or taken back.
        dropped: the number of the change that has taken it back last; 0: none.
    """

    kept: Testament | None = None
    number: int = 0
    changes: int = 0
    dropped: int = 0

    def begin(self) -> int:
        """Return the number of one more change."""
        self.changes += 1
        return self.changes

    def is_over(self, number: int) -> bool:
        """Whether what is kept by the change *number* was replaced, or taken back, by a later one."""
        return max(self.number, self.dropped) > number


class Testaments:
    """Those of all nodes.

    Args:
        store: keeps them.
        node: returns the address of this node.
        knows: says whether this node knows at present which others there are.
        lives: says whether another node is there.
        until_done: does something again and again while the store is away.
        publish: publishes one, whose event has the key by which it may come again.
    """

    def __init__(
        self,
        store: IStore,
        node: Callable[[], str],
        knows: Callable[[], bool],
        lives: Callable[[str], Awaitable[bool]],
        until_done: Callable[[Callable[[], Awaitable[object]]], object],
        publish: Callable[[Event, bool, str], Awaitable[object]],
    ) -> None:
        self._store, self._node, self._knows, self._lives = store, node, knows, lives
        self._until_done, self._publish = until_done, publish
        self._executing: set[str] = set()  # the keys of those that this node publishes now

    def keep(self, session: str, testament: Testament, quota: Quota | None = None) -> Deferred[object]:
        """Keep the testament of *session*, in the place of one before."""
        return self._store.set(SPACE, self._key(session), _encode(testament), quota=quota).addCallback(lambda _: None)

    def drop(self, session: str, is_current: Callable[[], bool] = lambda: True) -> None:
        """Forget that of *session*, as long as *is_current* says that there is no other one."""

        async def drop() -> None:
            if is_current():
                await self._store.delete(SPACE, self._key(session))

        self._until_done(drop)

    def execute(self, session: str) -> None:
        """Publish that of *session*, which is lost, unless another node does it."""
        self._until_done(partial(self._execute, self._key(session)))

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
            for key, _ in entries:
                node = key.rpartition(" ")[0]
                if node not in dead:
                    dead[node] = not await self._lives(node)
                if dead[node]:
                    await self._execute(key)
            if len(entries) < PAGE:
                return
            after = entries[-1][0] + "\0"

    async def _execute(self, key: str) -> None:
        if key in self._executing:
            return
        self._executing.add(key)
        try:
            testament = await self._claimed(key)
            if testament is not None:
                await self._published(testament, key)
                await self._store.delete(SPACE, key)
        finally:
            self._executing.discard(key)

    async def _claimed(self, key: str) -> Testament | None:
        """Note in the store that this node publishes what is kept there; None: nothing is, or another one does it."""
        while True:
            entry: Entry | None = await self._store.get(SPACE, key)
            if entry is None:
                return None
            testament, node = _decode(entry.value), self._node()
            if testament.executor == node:
                return testament
            if testament.executor and await self._lives(testament.executor):
                return None
            testament.executor = node
            try:
                await self._store.set(SPACE, key, _encode(testament), revision=entry.revision)
            except Conflict:
                continue  # another node was faster, or this one without having been told
            return testament

    async def _published(self, testament: Testament, key: str) -> None:
        """Publish *testament*; one that is refused is logged.

        Raises:
            Unavailable: nobody knows whether it was published.
        """
        topic, now = testament.topic, self._store.wall.time()
        event = Event(topic, testament.name, testament.body, testament.source, now)
        event.content_type, event.binary = testament.content_type, testament.binary
        try:
            await self._publish(event, testament.retain, f"testament\0{key}")  # no client has a key like it
        except Unavailable:
            raise
        except BrokerError:
            event_lost(Failure(), topic)

    def _key(self, session: str) -> str:
        return f"{self._node()} {session}"
