"""Whether a Redis still has what this node has seen of it.

A replica that becomes the master may lack what was acknowledged last, and so may a Redis that is
started from a snapshot.  The script ``timeline.lua`` says how that is found out, and begins a new epoch then.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from broker.redis.script import HEAD, read_part

log = Logger()

# Seconds for which writes wait, when another server has taken over, for the nodes that have not looked at it yet.
SETTLE_TIMEOUT = 2.0
SETTLE_STEP = 0.05  # seconds between two looks at who is waited for


class Timeline:
    """What one node knows of the history of the data.

    Args:
        prefix: what all keys begin with.
        clock: times the wait for other nodes.
        witness: returns the highest mark of an epoch that has come to this node from a server, otherwise than in an
            answer.

    Attributes:
        epoch: the present one; "" before the first look.
        kept: the mark up to which what this node knew before the present epoch is still there; 0: nothing is.
        told: whether it was told to others that there is another epoch; set by the owner.
        member: the id of this node, among those that use the data.
        connections: how often this node has connected; what it has sent by an earlier connection is not done any more.
        script: its text.
        server: with which was compared last; what came from another belongs to a timeline that this node does not know.
    """

    def __init__(self, prefix: bytes, clock: IReactorTime, witness: Callable[[str, str], int]) -> None:
        self.epoch = self.server = ""
        self.kept = self.connections = 0
        self.told = True
        self.member = secrets.token_hex(8).encode()
        self._prefix, self._clock, self._witness = prefix, clock, witness
        self._known: list[bytes] = []  # the latest first
        self.script = HEAD + b"\n" + read_part("broker.stores.redis_scripts", "timeline")

    async def compare(self, protocol: Any, run: bytes, seen: int) -> int:
        """Look whether the server has all that was seen; return its mark.

        If it has not, ``epoch`` is another one afterwards.  Where another server has taken over, this returns
        when all living nodes have looked, or have not within a while: what it lacks is noticed before
        anything is written to it.

        Args:
            protocol: leads to the server.
            run: which server it is, a word that changes when it is started again.
            seen: the highest mark that answers in the present epoch have shown.
        """
        while True:
            seen = max(seen, self._witness(self.epoch, self.server))
            pending, epoch, mark, kept, begun, *self._known = await self._ask(protocol, run, seen)
            self.server = run.decode()
            self._found(epoch.decode(), seen, kept, bool(begun))
            if not pending:
                return int(mark)
            seen = mark
            await deferLater(self._clock, SETTLE_STEP)

    def _ask(self, protocol: Any, run: bytes, seen: int) -> Any:
        new = (secrets.token_hex(8).encode(), secrets.token_hex(8).encode())
        words = (self._prefix, self.member, run, self.epoch.encode(), b"%d" % seen, *new)
        numbers = b"%d" % (SETTLE_TIMEOUT * 1000), b"%d" % self.connections
        return protocol.execute_command(b"EVAL", self.script, b"0", *words, *numbers, *self._known)

    def _found(self, epoch: str, seen: int, kept: int, begun: bool) -> None:
        before, self.epoch = self.epoch, epoch
        if not before or before == epoch:
            return
        self.kept = kept if self.told else min(kept, self.kept)
        self.told = False
        log.error(
            "data of Redis was lost: what was written after mark {kept} is gone, and this node had seen it up to mark "
            "{seen}; epoch {before} is now {epoch}, {by}; see docs/operations/scaling",
            seen=seen,
            kept=kept,
            before=before,
            epoch=epoch,
            by="which this node has begun" if begun else "which another node has begun",
        )
