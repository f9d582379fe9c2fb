"""The reserved methods of work queues: consume their messages, or not any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.owlmeans.methods import Answer, Method

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session


class Consume(Method):
    """Consume the messages of a work queue, round-robin with others."""

    called = "consume"
    queue: str = "default"

    async def run(self, session: Session) -> Answer:
        """Answer with all queues that the session takes from."""
        session.peer.consume(self.queue)
        await session.peer.listening()
        return {"consuming": session.peer.consumed}


class Release(Method):
    """Undo the consume of a work queue; a no-op without one."""

    called = "release"
    queue: str = "default"

    async def run(self, session: Session) -> Answer:
        """Answer with the queues that are left."""
        session.peer.stop_consuming(self.queue)
        return {"consuming": session.peer.consumed}


QUEUE_METHODS = (Consume, Release)
