"""The methods that the broker itself performs: ``broker.register`` and the others.

A client's ``perform``, ``observe`` and ``acknowledge`` are local and send nothing,
so that the broker must be told; an ordinary call does it.  Each method is a
class that says which arguments it takes and what it answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from broker.errors import BrokerError
from broker.patterns import check_name, check_pattern, matches
from protocols.owlmeans.auth import take_name
from protocols.owlmeans.method import Answer, Method, Options

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session

Names = str | list[str]


class Mode(Options):
    """Whether a method has one performer, or several that take turns."""

    mode: Literal["single", "roundrobin"] = "single"


class Echo(Options):
    """Whether a subscriber hears its own events."""

    echo: bool = False


class Register(Method):
    """Perform methods: all of them or none."""

    called = "broker.register"
    method: Names
    options: Mode | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with the names that were registered."""
        names = [check_name(name, "method") for name in _several(self.method)]
        shared = self.options is not None and self.options.mode == "roundrobin"
        await session.peer.perform(names, shared=shared)
        return {"registered": names}


class Unregister(Method):
    """Perform methods no more; unknown names are ignored."""

    called = "broker.unregister"
    method: Names

    async def run(self, session: Session) -> Answer:
        """Answer with the names that are not registered any more."""
        return {"unregistered": [name for name in _several(self.method) if session.peer.release(name)]}


class Subscribe(Method):
    """Hear the events of names and patterns: all of them or none."""

    called = "broker.subscribe"
    pattern: Names
    options: Echo | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with all subscriptions of the session."""
        peer = session.peer
        echo = self.options is not None and self.options.echo
        before, added = set(peer.subscriptions), []
        try:
            for pattern in _several(self.pattern):
                peer.subscribe(pattern, echo=echo)
                added.append(pattern)
        except BrokerError:
            for pattern in added:
                if pattern not in before:
                    peer.unsubscribe(pattern)
            raise
        await peer.listening()
        return {"subscribed": peer.subscriptions}


class Unsubscribe(Method):
    """Hear the events of names and patterns no more."""

    called = "broker.unsubscribe"
    pattern: Names

    async def run(self, session: Session) -> Answer:
        """Answer with the subscriptions that are left."""
        for pattern in _several(self.pattern):
            session.peer.unsubscribe(pattern)
        return {"subscribed": session.peer.subscriptions}


class Acknowledge(Method):
    """Take the requests of a topic, or with ``*`` those that nobody else takes."""

    called = "broker.acknowledge"
    topic: str = "*"

    async def run(self, session: Session) -> Answer:
        """Answer with all topics whose requests the session takes."""
        session.peer.acknowledge(self.topic)
        await session.peer.listening()
        return {"acknowledging": session.peer.acknowledged}


class Unacknowledge(Method):
    """Take the requests of a topic no more."""

    called = "broker.unacknowledge"
    topic: str = "*"

    async def run(self, session: Session) -> Answer:
        """Answer with the topics that are left."""
        session.peer.unacknowledge(self.topic)
        return {"acknowledging": session.peer.acknowledged}


class Consume(Method):
    """Take the messages of a work queue, in turn with others."""

    called = "broker.consume"
    queue: str = "default"

    async def run(self, session: Session) -> Answer:
        """Answer with all queues that the session takes from."""
        session.peer.consume(self.queue)
        await session.peer.listening()
        return {"consuming": session.peer.consumed}


class Release(Method):
    """Take the messages of a work queue no more."""

    called = "broker.release"
    queue: str = "default"

    async def run(self, session: Session) -> Answer:
        """Answer with the queues that are left."""
        session.peer.stop_consuming(self.queue)
        return {"consuming": session.peer.consumed}


class Identify(Method):
    """Take a name as client id, where the credential names nobody."""

    called = "broker.identify"
    name: str

    async def run(self, session: Session) -> Answer:
        """Answer as ``broker.whoami`` does."""
        take_name(session.peer, self.name)
        session.appear()
        await session.peer.listening()
        return _who(session)


class Whoami(Method):
    """Ask who one is."""

    called = "broker.whoami"

    async def run(self, session: Session) -> Answer:
        """Answer with client id, session id and stage of the authentication."""
        return _who(session)


class Procedures(Method):
    """Ask what can be called."""

    called = "broker.methods"
    pattern: str = ">"

    async def run(self, session: Session) -> Answer:
        """Answer with the names that match and that the session may call."""
        pattern = check_pattern(self.pattern)
        return {"methods": [name for name in session.peer.procedures() if matches(pattern, name)]}


def _several(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else list(dict.fromkeys(names))


def _who(session: Session) -> Answer:
    peer = session.peer
    stage = "authenticated" if session.authenticated else "init"
    return {"id": peer.client, "session": peer.id, "stage": stage}


METHODS = (
    Register,
    Unregister,
    Subscribe,
    Unsubscribe,
    Acknowledge,
    Unacknowledge,
    Consume,
    Release,
    Identify,
    Whoami,
    Procedures,
)
