"""TLS connections that a client may close in its own direction first.

RFC 8446, 6.1: "Each party MUST send a "close_notify" alert before closing its write side of
the connection […]  This does not have any effect on its read side of the connection."
Twisted's own protocol ends the connection at the client's close_notify, and drops what was
not yet sent.  A client that also closes its TCP connection is gone, as ever.

This uses private names of Twisted (:data:`PRIVATE_NAMES`), see ``transport``.
"""

from __future__ import annotations

from typing import Any

from OpenSSL.SSL import Error, WantReadError, ZeroReturnError
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocolFactory
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure

PRIVATE_NAMES = (
    "_aborted",
    "_flushReceiveBIO",
    "_flushSendBIO",
    "_lostTLSConnection",
    "_shutdownTLS",
    "_tlsShutdownFinished",
)


class HalfCloseableTLS(BufferingTLSTransport):
    """Tells protocols that provide IHalfCloseableProtocol of a close_notify, and goes on sending."""

    _tlsConnection: Any
    _read_closed = False

    def dataReceived(self, data: bytes) -> None:
        """Decrypt and deliver *data*."""
        # RFC 8446, 6.1: "Any data received after a closure alert has been received MUST be ignored."
        # It would never be read, and only fill the memory.
        if not self._read_closed:
            super().dataReceived(data)

    def abortConnection(self) -> None:
        """End the connection with a reset; a no-op once it has ended, as without TLS."""
        if self.connected:
            super().abortConnection()

    def _flushReceiveBIO(self) -> None:
        """Deliver what the received bytes decrypt to; Twisted's own method but for the close_notify."""
        while not (self._lostTLSConnection or self._read_closed):
            try:
                data = self._tlsConnection.recv(2**15)
            except WantReadError:
                break
            except ZeroReturnError:
                self._close_read()
            except Error:
                self._tlsShutdownFinished(Failure())
            else:
                if not self._aborted:
                    ProtocolWrapper.dataReceived(self, data)
        self._flushSendBIO()

    def _close_read(self) -> None:
        protocol = IHalfCloseableProtocol(self.wrappedProtocol, None)
        if protocol is None or self._aborted or self.disconnecting:
            self._shutdownTLS()
            self._tlsShutdownFinished(None)
        else:
            self._read_closed = True
            protocol.readConnectionLost()


def make_half_closeable(factory: Any) -> None:
    """Let the connections of *factory*, Twisted's of a TLS port, be half-closed, if it is one that is known."""
    if isinstance(factory, TLSMemoryBIOFactory) and factory.protocol is BufferingTLSTransport:
        known = {*dir(BufferingTLSTransport)}
        if known.issuperset(PRIVATE_NAMES):
            factory.protocol = HalfCloseableTLS


def tls_factory(certificates: Any, factory: IProtocolFactory) -> TLSMemoryBIOFactory:
    """Return what lets the connections of *factory* speak TLS with *certificates*, and be half-closed."""
    secured = TLSMemoryBIOFactory(certificates, False, factory)
    secured.noisy = False
    make_half_closeable(secured)
    return secured
