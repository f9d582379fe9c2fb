"""All that a client is registered for, by kind and name."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from broker.client.context import Context
from broker.client.errors import ClientError, Closed, Taken
from broker.client.outcomes import Outcome
from broker.client.registrations import Registration


@attrs.define(eq=False)
class Registry:
    """The registrations of one client.

    Attributes:
        context: of the client.
        found: them, by kind and name.
    """

    context: Context
    found: dict[tuple[str, str], Registration] = attrs.field(factory=dict, init=False)
    _settles: list[Outcome[None]] = attrs.field(factory=list, init=False)

    def get(self, kind: str, name: str) -> Registration | None:
        """Return the one of *kind* for *name*."""
        return self.found.get((kind, name))

    def all(self) -> Iterable[Registration]:
        """Return those of now."""
        return list(self.found.values())

    def add(self, registration: Registration) -> None:
        """Have *registration* from now on, with every connection.

        Raises:
            Taken: there is one of its kind and name.
            Closed: the client has ended.
        """
        key = registration.kind, registration.name
        if key in self.found:
            raise Taken(f"there is a {registration.kind} of {registration.name} already")
        if self.context.end is not None:
            raise self.context.end
        self.found[key] = registration
        registration.on_change = self._changed
        if self.context.is_ready:
            registration.begin()

    def begin(self) -> None:
        """Register all: there is a connection."""
        for registration in self.all():
            registration.begin()

    def lost(self) -> None:
        """Notice that the connection was lost."""
        for registration in self.all():
            registration.lost()

    def end(self, error: ClientError) -> None:
        """Forget all, because of *error*: one that has no message is the application's own wish."""
        wanted = type(error) is Closed and not error.message
        for registration in self.all():
            registration.end(None if wanted else error)
        settles, self._settles = self._settles, []
        for outcome in settles:
            outcome.fail(error)

    def settled(self) -> Outcome[None]:
        """Return what ends when all are in place."""
        outcome: Outcome[None] = Outcome()
        outcome.cancelled = lambda: self._forget_settle(outcome)
        if self.context.end is not None:
            outcome.fail(self.context.end)
        else:
            self._settles.append(outcome)
            self.settle()
        return outcome

    def settle(self) -> None:
        """End what waits for the registrations, if all are in place."""
        if self._settles and self.context.is_ready and all(each.active for each in self.found.values()):
            settles, self._settles = self._settles, []
            for outcome in settles:
                outcome.succeed(None)

    def _changed(self, registration: Registration) -> None:
        key = registration.kind, registration.name
        if registration.ended and self.found.get(key) is registration:
            del self.found[key]
        self.settle()

    def _forget_settle(self, outcome: Outcome[None]) -> None:
        if outcome in self._settles:
            self._settles.remove(outcome)
        outcome.fail(Closed())
