"""Ports that several processes accept from, each with about as many connections as the others.

All have the same listening socket, so that what waits in its queue is accepted by whoever can, also when one of them
has ended, is frozen or drains.  The kernel wakes all of them, and does not care who has how many connections: the
first has them all.  So each notes in shared memory how many it has, accepts a few at a time, and gives way for a
millisecond to one that has fewer.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime

BATCH = 8  # connections that are accepted at once
PAUSE = 0.001  # seconds for which one with more connections gives way
RECHECK = 0.1  # seconds between two looks of one that takes none, whether all others take none either
ABSENT = -1  # the count of a process that is not there, or takes no connections
ITEM = 8  # bytes of a count


class SharedCounts:
    """Numbers in memory that several processes have, one for each of them.

    Args:
        descriptor: of the memory, which is *length* numbers long or more.
        length: how many numbers there are.
    """

    def __init__(self, descriptor: int, length: int) -> None:
        self.descriptor, self._length = descriptor, length
        self._numbers = memoryview(mmap.mmap(descriptor, length * ITEM)).cast("q")

    @classmethod
    def make(cls, length: int) -> SharedCounts:
        """Return numbers of which none is there."""
        descriptor = os.memfd_create("txbroker")
        os.ftruncate(descriptor, length * ITEM)
        made = cls(descriptor, length)
        for number in range(length):
            made[number] = ABSENT
        return made

    def __getitem__(self, number: int) -> int:
        """Return one of them."""
        return self._numbers[number]

    def __setitem__(self, number: int, count: int) -> None:
        """Set one of them."""
        self._numbers[number] = count

    def fewest_of_others(self, number: int) -> int:
        """Return the lowest of all that are there but that of *number*; ``ABSENT``: there are none."""
        others = [count for each, count in enumerate(self._numbers) if each != number and count != ABSENT]
        return min(others, default=ABSENT)


class AcceptShare:
    """Lets ports accept no more than their share.

    Args:
        clock: the reactor.
        counts: of all processes.
        number: of this one, from 0.
        connections: returns how many connections this one has.
    """

    def __init__(self, clock: IReactorTime, counts: SharedCounts, number: int, connections: Callable[[], int]) -> None:
        self._clock, self._counts, self._number = clock, counts, number
        self._connections = connections
        self._ports: list[Any] = []
        self._withdrawn = False

    def note(self) -> None:
        """Let the others know how many connections there are here."""
        self._counts[self._number] = ABSENT if self._withdrawn else self._own()

    def withdraw(self) -> None:
        """Leave new connections to the others, as long as there is one that takes them."""
        self._withdrawn = True
        self.note()

    def join(self, port: Any) -> Any:
        """Let *port* accept no more than its share; return it."""
        if hasattr(port, "doRead"):  # ports of plugins may be of another kind
            self._ports.append(SharedPort(port, self._clock, self._pause))
        return port

    def _own(self) -> int:
        return self._connections() + sum(getattr(port.port, "waiting", 0) for port in self._ports)

    def _pause(self, waited: bool) -> float:
        """Return for how many seconds a port accepts nobody; 0.0: it accepts."""
        fewest = self._counts.fewest_of_others(self._number)
        if self._withdrawn:
            return RECHECK if fewest != ABSENT else 0.0
        own = self._own()
        self._counts[self._number] = own
        return PAUSE if not waited and fewest != ABSENT and own > fewest else 0.0


class SharedPort:
    """Stands before the ``doRead`` of one port.

    Args:
        port: of Twisted.
        clock: the reactor.
        pause: returns for how many seconds it accepts nobody; it is told whether it has waited already.

    Attributes:
        port: as above.
    """

    def __init__(self, port: Any, clock: IReactorTime, pause: Callable[[bool], float]) -> None:
        self.port, self._clock, self._pause = port, clock, pause
        self._accept: Callable[[], object] = port.doRead
        self._waited = False
        port.doRead, port.accept_rest = self._read, self._read_rest
        port.max_accepts = BATCH

    def _read(self) -> None:
        seconds = self._pause(self._waited)
        if seconds:
            self.port.stopReading()
            self._clock.callLater(seconds, self._go_on)
            return
        self._waited = False
        self.port.numberAccepts = BATCH  # of Twisted's own ports, which change it
        self._accept()
        self._pause(True)  # notes how many there are now

    def _go_on(self) -> None:
        # To have been woken by what somebody else has accepted meanwhile costs no more than to ask the kernel.
        if self.port.connected and not self.port.disconnecting:
            self._waited = True
            self.port.startReading()

    def _read_rest(self) -> None:
        """Accept whoever has connected, since nobody else may do so: all processes may be about to stop."""
        self.port.doRead = self._accept
        del self.port.max_accepts
        self._accept()
