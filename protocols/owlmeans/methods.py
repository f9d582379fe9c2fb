"""The methods that the broker itself performs: ``broker.register`` and the others.

A client's ``perform``, ``observe`` and ``acknowledge`` are local and send nothing, so
that an ordinary call tells the broker.  Each method is a class: its fields are the arguments.

The value of a key is a string; a change of key ``K`` is an event on topic ``kv/K``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec

from broker.errors import BrokerError, Invalid, NotFound, TooLarge
from broker.messages import MAX_EXPIRY, MAX_ID
from broker.patterns import KEY_PREFIX, RESERVED_PREFIX, check_name, check_pattern
from protocols.owlmeans.watches import MAX_ANSWER_BYTES, MAX_ENTRIES, size_of
from protocols.owlmeans.wire import entry_of

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session

Answer = dict[str, Any]

MAX_NAMES = 1000  # names or patterns of one call, and names of one answer


class Method(msgspec.Struct, array_like=True):
    """Arguments of a reserved method, in their order; ``called`` is its name behind ``broker.``."""

    called: ClassVar[str]

    async def run(self, session: Session) -> Answer:
        """Do it and return the payload of the result."""
        raise NotImplementedError

    def sent(self, session: Session) -> None:
        """Notice that the result is on its way."""


class Methods:
    """The reserved methods by name."""

    def __init__(self, *methods: type[Method]) -> None:
        self._methods = {RESERVED_PREFIX + method.called: method for method in methods}
        self._decoders = {name: msgspec.json.Decoder(method).decode for name, method in self._methods.items()}
        self.names = list(self._methods)

    def read(self, name: str, body: bytes) -> Method:
        """Return the call of method *name* with the arguments *body*, a JSON array.

        Raises:
            NotFound: there is no such method.
            Invalid: an argument is missing or of a wrong type.
        """
        decode = self._decoders.get(name)
        if decode is None:
            raise NotFound("method", name)
        try:
            return decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            place = re.search(r"\$\[(\d+)\]", str(error))
            fields = self._methods[name].__struct_fields__
            raise Invalid(fields[int(place[1])] if place else "arguments") from None


Names = str | list[str]


class Mode(msgspec.Struct):
    """Whether a method has one performer, or several that are called round-robin."""

    mode: Literal["single", "roundrobin"] = "single"


class Echo(msgspec.Struct):
    """Whether a subscriber gets its own events too."""

    echo: bool = False


class Register(Method):
    """Perform methods: all of them or none."""

    called = "register"
    method: Names
    options: Mode | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with the names that were registered."""
        names = [check_name(name, "method") for name in _several(self.method)]
        shared = self.options is not None and self.options.mode == "roundrobin"
        await session.peer.perform(names, shared=shared)
        return {"registered": names}


class Unregister(Method):
    """Unregister methods; unknown names are ignored."""

    called = "unregister"
    method: Names

    async def run(self, session: Session) -> Answer:
        """Answer with the names that are not registered any more."""
        return {"unregistered": [name for name in _several(self.method) if session.peer.release(name)]}


class Subscribe(Method):
    """Subscribe to names and patterns: all of them or none."""

    called = "subscribe"
    pattern: Names
    options: Echo | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with all subscriptions of the session."""
        peer = session.peer
        echo = self.options is not None and self.options.echo
        before = set(peer.subscriptions)
        added: list[str] = []
        try:
            for pattern in _several(self.pattern):
                peer.subscribe(pattern, echo=echo, rate_limited=not added)
                added.append(pattern)
        except BrokerError:
            for pattern in added:
                if pattern not in before:
                    peer.unsubscribe(pattern)
            raise
        await peer.listening()
        return {"subscribed": peer.subscriptions}


class Unsubscribe(Method):
    """Unsubscribe from names and patterns; a no-op for those not subscribed to."""

    called = "unsubscribe"
    pattern: Names

    async def run(self, session: Session) -> Answer:
        """Answer with the subscriptions that are left."""
        for pattern in _several(self.pattern):
            session.peer.unsubscribe(pattern)
        return {"subscribed": session.peer.subscriptions}


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


class Procedures(Method):
    """Ask for the methods that can be called."""

    called = "methods"
    pattern: str = ">"

    async def run(self, session: Session) -> Answer:
        """Answer with the names that match and that the session may call."""
        return {"methods": await session.peer.matching_procedures(self.pattern)}


def _several(names: Names) -> list[str]:
    """Return *names*, each once.

    Raises:
        TooLarge: there are more than ``MAX_NAMES``.
    """
    if isinstance(names, str):
        return [names]
    if len(names) > MAX_NAMES:
        raise TooLarge("names")
    return list(dict.fromkeys(names))


def _who(session: Session) -> Answer:
    peer = session.peer
    stage = "authenticated" if session.authenticated else "init"
    return {"id": peer.client, "session": peer.id, "stage": stage}


class Condition(msgspec.Struct):
    """``revision``: only if that is the stored one; 0: only if there is none."""

    revision: int | None = None


class Lifetime(Condition):
    """``ttl``: seconds after which the key expires."""

    ttl: float | None = None


class Limit(msgspec.Struct):
    """``limit``: how many entries at most."""

    limit: int = 100


class Get(Method):
    """Read a key."""

    called = "get"
    key: str

    async def run(self, session: Session) -> Answer:
        """Answer with value and revision; a missing key has the value null and the revision 0."""
        return entry_of(self.key, await session.peer.get(_checked(self.key)))


class Set(Method):
    """Create or replace a key."""

    called = "set"
    key: str
    value: str
    options: Lifetime | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with the new revision."""
        options = self.options or Lifetime()
        expires = 0.0
        if options.ttl is not None:
            expires = session.peer.wall.time() + options.ttl
            if not (options.ttl > 0 and expires <= MAX_EXPIRY):
                raise Invalid("ttl")
        value = self.value.encode()
        entry = await session.peer.set(_checked(self.key), value, revision=_revision(options), expires=expires)
        return {"key": self.key, "revision": entry.revision}


class Patch(Method):
    """Merge an object into a key's object, one level deep, or append to another value."""

    called = "patch"
    key: str
    value: str

    async def run(self, session: Session) -> Answer:
        """Answer with the new value and revision."""
        return entry_of(self.key, await session.peer.patch(_checked(self.key), self.value.encode()))


class Increment(Method):
    """Add a number to a key; a missing one counts as 0."""

    called = "increment"
    key: str
    amount: msgspec.Raw = msgspec.Raw(b"1")

    async def run(self, session: Session) -> Answer:
        """Answer with the new value and revision."""
        amount = bytes(self.amount)
        if amount[:1] not in b"-0123456789":
            raise Invalid("amount")
        return entry_of(self.key, await session.peer.increment(_checked(self.key), amount))


class Delete(Method):
    """Remove a key."""

    called = "delete"
    key: str
    options: Condition | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with whether it was there."""
        revision = _revision(self.options or Condition())
        return {"key": self.key, "deleted": await session.peer.delete(_checked(self.key), revision=revision)}


class Range(Method):
    """Read the keys from *first* to *last*, both included, in the order of their UTF-8 bytes."""

    called = "range"
    first: str
    last: str
    options: Limit | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with the entries, and with whether there may be more."""
        limit = (self.options or Limit()).limit
        if not 0 < limit <= MAX_ENTRIES:
            raise Invalid("limit")
        found = await session.peer.range(self.first, self.last, limit + 1, max_bytes=MAX_ANSWER_BYTES)
        more = len(found) > limit or size_of(found) > MAX_ANSWER_BYTES
        return {"entries": [entry_of(key, entry) for key, entry in found[:limit]], "more": more}


class Watch(Method):
    """Get the changes of a key, or of all keys that match a pattern, from the present entries on.

    Changes come as events named ``kv/<pattern>``, one's own changes included.
    """

    called = "watch"
    pattern: str

    async def run(self, session: Session) -> Answer:
        """Answer with the present entries; the changes come after them."""
        found = await session.watches.begin(check_pattern(self.pattern))
        return {"watching": session.watches.patterns, "entries": [entry_of(key, entry) for key, entry in found]}

    def sent(self, session: Session) -> None:
        """Let the changes follow."""
        session.watches.go_on(self.pattern)


class Unwatch(Method):
    """Undo the watch of a key or a pattern; a no-op without one."""

    called = "unwatch"
    pattern: str

    async def run(self, session: Session) -> Answer:
        """Answer with the patterns that are left."""
        session.watches.end(self.pattern)
        return {"watching": session.watches.patterns}


def _checked(key: str) -> str:
    check_name(key, "key")
    check_name(KEY_PREFIX + key, "key")
    return key


def _revision(options: Condition) -> int | None:
    if options.revision is not None and not 0 <= options.revision <= MAX_ID:
        raise Invalid("revision")
    return options.revision


METHODS = Methods(
    Register, Unregister, Procedures, Subscribe, Unsubscribe, Acknowledge, Unacknowledge, Consume, Release,
    Identify, Whoami, Get, Set, Patch, Increment, Delete, Range, Watch, Unwatch,
)  # fmt: skip
