"""The reserved methods by which a client says, or asks, who it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.owlmeans.methods import Answer, Method

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session


class Identify(Method):
    """Take a name as client id, where the credential names nobody or allows it."""

    called = "identify"
    name: str

    async def run(self, session: Session) -> Answer:
        """Answer as ``broker.whoami`` does."""
        await session.take_name(self.name)
        session.appear()
        await session.peer.listening()
        return _who(session)


class Whoami(Method):
    """Ask for the client's own ids and stage."""

    called = "whoami"

    async def run(self, session: Session) -> Answer:
        """Answer with client id, session id and stage of the authentication."""
        return _who(session)


def _who(session: Session) -> Answer:
    peer = session.peer
    stage = "authenticated" if session.authenticated else "init"
    return {"id": peer.client, "session": peer.id, "stage": stage}


CLIENT_METHODS = (Identify, Whoami)
