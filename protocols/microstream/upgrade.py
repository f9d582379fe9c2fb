"""From long-polling to WebSocket.

::

    C>S  GET ?transport=websocket&sid=S   (Upgrade: websocket)   -> 101
    C>S  2probe         S>C  3probe        the waiting GET is answered with 6
    C>S  5              packets travel over the WebSocket
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.interfaces import ILink
from broker.sessions import BaseSession
from protocols.microstream.engineio import PROBED, UPGRADED, Malformed

if TYPE_CHECKING:
    from protocols.microstream.sessions import Session


class Upgrade(BaseSession):
    """A WebSocket that came with the sid of a polling session.

    It is nothing of its own to the core: the session keeps its peer.
    """

    def __init__(self, session: Session, link: ILink) -> None:
        self._session = session
        self._link = link
        self._pending = False
        self._moved = False
        self._bucket = 0.0

    def opened(self) -> None:
        """Wait for the probe, or close.

        "a second WebSocket with that sid is closed and the first keeps working"
        """
        session = self._session
        if not session.engine.begin_upgrade():
            self._link.close()
            return
        self._pending = True
        session.upgrade = self
        self._bucket = session.server.timers.add(self.drop, session.server.times.upgrade_timeout)

    def received(self, data: bytes, binary: bool) -> None:
        """Take a frame, for the session as soon as it has moved here."""
        if self._moved:
            self._session.received(data, binary)
        elif self._pending:
            try:
                self._take(data, binary)
            except Malformed:
                self.drop()

    def _take(self, data: bytes, binary: bool) -> None:
        session = self._session
        for event in session.engine.receive_probe(data, binary):
            if event is UPGRADED:
                self._settle()
                self._moved = True
                session.move(self._link)
            else:
                self._link.send(PROBED)
                session.flush()

    def closed(self, code: int, reason: str) -> None:
        """It has gone: with the session if that had moved, else "polling continues"."""
        if self._moved:
            self._session.closed(code, reason)
        else:
            self._abandon()

    def drop(self) -> None:
        """Close it; the session stays with polling."""
        self._abandon()
        self._link.close()

    def _abandon(self) -> None:
        if self._pending:
            self._settle()
            self._session.upgrade = None
            self._session.engine.abandon_upgrade()

    def _settle(self) -> None:
        self._pending = False
        self._session.server.timers.drop(self.drop, self._bucket)
