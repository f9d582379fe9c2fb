"""The reserved methods of calls and streamed requests: perform them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from broker.patterns import check_name
from protocols.owlmeans.methods import Answer, Method, Names, Options, distinct

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session


class Mode(Options):
    """Whether a method has one performer, or several that are called round-robin."""

    mode: Literal["single", "roundrobin"] = "single"


class Register(Method):
    """Perform methods: all of them or none."""

    called = "register"
    method: Names
    options: Mode | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with the names that were registered."""
        names = [check_name(name, "method") for name in distinct(self.method)]
        shared = self.options is not None and self.options.mode == "roundrobin"
        await session.peer.perform(names, shared=shared)
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


CALL_METHODS = (Register, Unregister, Acknowledge, Unacknowledge)
