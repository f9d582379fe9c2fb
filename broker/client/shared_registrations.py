"""What several readers of a client share, as the broker has one registration of a session to a name."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

import attrs

from broker.client.errors import ClientError
from broker.client.registrations import Registration


class Sharer(Protocol):
    """One of the readers.

    Attributes:
        following: whether what comes follows what it has had.
        paused: whether it has as much as it should.
        ended: whether it gets no more.
    """

    following: bool
    paused: bool
    ended: bool

    @property
    def is_placed(self) -> bool:
        """Whether it needs no beginning any more."""

    def beginning(self) -> dict[str, Any]:
        """Return the options by which the broker lets it begin."""

    def lost(self) -> None:
        """Notice that the connection was lost."""

    def end(self, error: ClientError | None) -> None:
        """Get no more, because of *error* if there is one."""


R = TypeVar("R", bound=Sharer)


@attrs.define(eq=False)
class SharedRegistration(Registration, Generic[R]):
    """A registration, and all who read it.

    Readers that come later let it begin as those want, all that want the same at once, to learn where that is; then
    it begins for all of them where the last of them is, and each drops what it has had.

    Attributes:
        readers: them.
    """

    readers: list[R] = attrs.field(factory=list, init=False)
    _newcomer: R | None = attrs.field(default=None, init=False)
    _asked_for: list[R] = attrs.field(factory=list, init=False)

    def add(self, reader: R) -> None:
        """Have one more *reader*."""
        self.readers.append(reader)
        if len(self.readers) > 1:
            self._go_on()

    # For the registry: see ``Registration``.

    def begin(self) -> None:
        """Register, for the next that have not begun, or for all of them; not for those that are paused."""
        reading = [reader for reader in self.readers if not reader.paused]
        newcomers = [reader for reader in reading if not reader.is_placed]
        self._newcomer, self._asked_for = None, reading
        if newcomers:
            self._newcomer, beginning = newcomers[0], newcomers[0].beginning()
            self._asked_for = [reader for reader in newcomers if reader.beginning() == beginning]
        if reading:
            super().begin()

    def follow(self) -> list[R]:
        """Let those follow that the broker was asked for, and nobody else; return them."""
        asked_for = set(self._asked_for)
        for reader in self.readers:
            reader.following = reader in asked_for and not reader.paused
        return [reader for reader in self._asked_for if not reader.ended]

    def in_place(self, result: object) -> None:
        """Ask once more if that was not for all; else be in place."""
        if any(not each.paused and not (each.following and each.is_placed) for each in self.readers):
            self.begin()
        else:
            super().in_place(result)

    def on_refused(self, error: ClientError) -> None:
        """End those for whom it can not be had."""
        for reader in self._asked_for:
            reader.end(error)
        self.readers = [reader for reader in self.readers if not reader.ended]
        if self.readers:
            self.begin()
        else:
            self.end(error)

    def on_lost(self) -> None:
        """Notice that the connection was lost."""
        for reader in self.readers:
            reader.lost()

    def on_end(self, error: ClientError | None) -> None:
        """End all readers."""
        readers, self.readers = self.readers, []
        for reader in readers:
            reader.end(error)

    # For the readers.

    def reader_changed(self, reader: R) -> None:
        """Notice that *reader* has paused, can go on, or wants no more."""
        if self.ended:
            return
        if reader.ended:
            self.remove(reader)
        if not self.readers:
            self.close()
        elif all(each.paused for each in self.readers):
            if self.context.is_ready:
                self.pause()
        elif not reader.ended and not reader.paused:
            self._go_on()

    def remove(self, reader: R) -> None:
        """Forget *reader*."""
        if reader in self.readers:
            self.readers.remove(reader)

    def _go_on(self) -> None:
        """Ask for those who are not in place, unless that is under way."""
        self.active = False
        if self.context.is_ready and not self.asking:
            self.begin()
