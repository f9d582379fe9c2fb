"""The procedures that a client performs, and the requests that it responds to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from broker.client import wire
from broker.client.context import Context
from broker.client.errors import ClientError, Invalid
from broker.client.registrations import Registration

Handler = Callable[..., Any]


@attrs.define(eq=False)
class Invocation:
    """A call, or a request, that the application has to answer.

    Attributes:
        id: of its frame.
        handler: what answers it.
        arguments: for the handler.
        caller: the client id of who has asked.
        streamed: whether it is a request, with any number of responses.
        stop: set by the driver: ends the handler, as nobody waits for the answer any more.
        ended: whether it was answered, or nobody waits for it.
    """

    procedures: Procedures
    id: str
    handler: Handler
    arguments: list[Any]
    caller: str
    streamed: bool = False
    stop: Callable[[], object] | None = attrs.field(default=None, init=False)
    ended: bool = attrs.field(default=False, init=False)

    def respond(self, value: object) -> None:
        """Send *value*: the result of a call, or one response to a request."""
        if self.ended:
            return
        try:
            data = wire.answer("response" if self.streamed else "result", self.id, wire.encode(value))
        except Invalid as error:
            self.fail(error)
            return
        if not self.streamed:
            self.finish()
        self.procedures.context.send(data)

    def fail(self, error: BaseException) -> None:
        """Send *error*."""
        if not self.ended:
            self.finish()
            self.procedures.context.send(wire.answer("error", self.id, wire.marshalled(error)))

    def finish(self) -> None:
        """Notice that it has ended."""
        self.ended = True
        self.procedures.under_way.pop(self.id, None)

    def cancel(self) -> None:
        """Stop it: nobody waits for it any more."""
        if not self.ended:
            self.finish()
            if self.stop is not None:
                self.stop()


@attrs.define(eq=False)
class Procedure(Registration):
    """A procedure by its name.

    Attributes:
        handler: what performs it; its arguments are those of the call.
        options: on which terms.
    """

    kind, method, undo = "procedure", "broker.register", "broker.unregister"

    handler: Handler
    options: dict[str, Any] = attrs.field(factory=dict)

    def arguments(self) -> list[object]:
        """Return the name and the terms."""
        return [self.name, self.options] if self.options else [self.name]


@attrs.define(eq=False)
class Responder(Registration):
    """The requests of a topic.

    Attributes:
        handler: what responds: a function of the payload that returns one response, or an async generator of many.
    """

    kind, method, undo = "responder", "broker.acknowledge", "broker.unacknowledge"

    handler: Handler

    def arguments(self) -> list[object]:
        """Return the topic."""
        return [self.name]


@attrs.define(eq=False)
class Procedures:
    """All that a client performs.

    Attributes:
        context: of the client.
        find: returns the registration of a kind and a name.
        invoke: runs a handler.
        under_way: by the ids of their frames.
    """

    context: Context
    find: Callable[[str, str], Registration | None]
    invoke: Callable[[Invocation], None]
    under_way: dict[str, Invocation] = attrs.field(factory=dict, init=False)

    def on_call(self, id: str, name: str, payload: bytes, caller: str) -> None:
        """Perform procedure *name*."""
        found = self.find(Procedure.kind, name)
        if isinstance(found, Procedure):
            arguments = wire.value_of(payload) if payload else []
            self._begin(Invocation(self, id, found.handler, arguments, caller))
        else:
            error = ClientError(f"{name} is not performed here any more")
            self.context.send(wire.answer("error", id, wire.marshalled(error)))

    def on_request(self, id: str, payload: bytes, caller: str) -> None:
        """Respond to a request, by whoever takes its action, or all of them."""
        value = wire.value_of(payload) if payload else None
        action = value.get("action") if isinstance(value, dict) else None
        for topic in (action, "*"):
            found = self.find(Responder.kind, str(topic))
            if isinstance(found, Responder):
                self._begin(Invocation(self, id, found.handler, [value], caller, streamed=True))
                return

    def on_cancel(self, id: str) -> None:
        """Stop what nobody waits for any more."""
        invocation = self.under_way.get(id)
        if invocation is not None:
            invocation.cancel()

    def lost(self) -> None:
        """Stop all: what they answer has no way back."""
        for invocation in list(self.under_way.values()):
            invocation.cancel()

    def _begin(self, invocation: Invocation) -> None:
        self.context.counts.served += 1
        self.under_way[invocation.id] = invocation
        self.invoke(invocation)
