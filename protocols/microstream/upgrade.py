"""The upgrade of a session from long-polling to WebSocket.

::

    C>S  GET ?transport=websocket&sid=S   (Upgrade: websocket)   -> 101
    C>S  2probe         S>C  3probe        the waiting GET is answered with 6
    C>S  5              the WebSocket carries the packets
"""

from __future__ import annotations

from collections.abc import Callable

from broker.interfaces import ILink
from broker.sessions import BaseSession
from protocols.microstream.engineio import PROBED, UPGRADED, ProtocolError
from protocols.microstream.sessions import Session


class Upgrade(BaseSession):
    """A WebSocket that was opened with the sid of a polling session.

    The core knows only the session, which keeps its peer.
    """

    def __init__(self, session: Session, link: ILink) -> None:
        self._session = session
        self._link = link
        self._pending = False
        self._upgraded = False
        self._bucket: dict[Callable[[], object], float] | None = None

    def opened(self) -> None:
        """Expect the probe, or close when the session can not be upgraded.

        "a second WebSocket with that sid is closed and the first keeps working"
        """
        session = self._session
        if not session.engine.begin_upgrade():
            self._link.close()
            return
        self._pending = True
        session.upgrade = self
        self._bucket = session.context.timers.add(self.drop, session.context.times.upgrade_timeout)

    def received(self, data: bytes, binary: bool) -> None:
        """Handle a frame: of the probe, and after the upgrade of the session."""
        if self._upgraded:
            self._session.received(data, binary)
        elif self._pending:
            try:
                self._handle(data, binary)
            except ProtocolError:
                self.drop()

    def _handle(self, data: bytes, binary: bool) -> None:
        session = self._session
        for event in session.engine.receive_probe(data, binary):
            if event is UPGRADED:
                self._stop_timer()
                self._upgraded = True
                session.on_upgraded(self._link)
            else:
                self._link.send(PROBED)
                session.flush()

    def closed(self, code: int, reason: str) -> None:
        """End the session after the upgrade; before, "polling continues"."""
        if self._upgraded:
            self._session.closed(code, reason)
        else:
            self._abandon()

    def drop(self) -> None:
        """Close the WebSocket; the session goes on by polling."""
        self._abandon()
        self._link.close()

    def _abandon(self) -> None:
        if self._pending:
            self._stop_timer()
            self._session.upgrade = None
            self._session.engine.abandon_upgrade()

    def _stop_timer(self) -> None:
        self._pending = False
        self._session.context.timers.drop(self.drop, self._bucket)
