"""The reserved methods of calls and streamed requests: perform them, or cancel one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from broker.messages import MAX_ID
from broker.patterns import check_name
from protocols.owlmeans.methods import Answer, Method, Names, Options, distinct

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session


class Terms(Options):
    """On which terms a method is performed.

    Attributes:
        mode: whether it has one performer, or several: called round-robin, or whoever has the fewest calls to answer.
        max_in_flight: how many calls of it the performer takes at once.
        queue: how many more may wait for that; beyond, callers are told that it is busy.
    """

    mode: Literal["single", "roundrobin", "leastbusy"] = "single"
    max_in_flight: Annotated[int, msgspec.Meta(ge=1, le=MAX_ID)] | None = None
    queue: Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)] | None = None


class Register(Method):
    """Perform methods: all of them or none."""

    called = "register"
    method: Names
    options: Terms | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with the names that were registered."""
        names = [check_name(name, "method") for name in distinct(self.method)]
        terms = self.options or Terms()
        await session.peer.perform(
            names,
            shared=terms.mode != "single",
            least_busy=terms.mode == "leastbusy",
            max_in_flight=terms.max_in_flight or 0,
            queue=terms.queue or 0,
        )
        return {"registered": names}


class Unregister(Method):
    """Unregister methods; unknown names are ignored."""

    called = "unregister"
    method: Names

    async def run(self, session: Session) -> Answer:
        """Answer with the names that are not registered any more."""
        return {"unregistered": [name for name in distinct(self.method) if session.peer.release(name)]}


class Acknowledge(Method):
    """Take the requests of a topic, or with ``*`` those that nobody else takes."""

    called = "acknowledge"
    topic: str = "*"

    async def run(self, session: Session) -> Answer:
        """Answer with all topics whose requests the session takes."""
        session.peer.acknowledge(self.topic)
        await session.peer.listening()
        return {"acknowledging": session.peer.acknowledged}


class Unacknowledge(Method):
    """Undo the acknowledge of a topic; a no-op without one."""

    called = "unacknowledge"
    topic: str = "*"

    async def run(self, session: Session) -> Answer:
        """Answer with the topics that are left."""
        session.peer.unacknowledge(self.topic)
        return {"acknowledging": session.peer.acknowledged}


class Cancel(Method):
    """Cancel a call or a request of one's own by its id; whoever answers it is told."""

    called = "cancel"
    id: str

    async def run(self, session: Session) -> Answer:
        """Answer with the id; the call itself ends with an error."""
        session.peer.cancel(self.id)
        return {"cancelled": self.id}


CALL_METHODS = (Register, Unregister, Cancel, Acknowledge, Unacknowledge)
