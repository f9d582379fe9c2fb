"""The MicroStream dialect: services that call each other through Socket.IO.

Clients are those of ``socket.io-client`` 4.x, on which ``microstream-client`` is built.
From the bottom to the top: ``engineio`` and ``socketio`` are the two protocols
without I/O; ``sessions``, ``upgrade`` and ``server`` connect the first to HTTP and
WebSocket, and ``namespaces`` adds the second; ``hub`` is the dialect, and ``wire``
has the shapes of its messages and its error codes.

A plugin may build other Socket.IO servers on the names below, which stay as they are:
``Server`` serves a path with sessions of a subclass of ``Session`` (Engine.IO) or of
``SocketSession`` (Socket.IO).
"""

from protocols.microstream.engineio import ProtocolError, Times
from protocols.microstream.hub import MicroStream, dialect, server_options
from protocols.microstream.namespaces import SocketSession
from protocols.microstream.server import Bounds, Server
from protocols.microstream.sessions import Handshake, Session, SessionContext
from protocols.microstream.socketio import Connect, Emit

__all__ = [
    "Bounds",
    "Connect",
    "Emit",
    "Handshake",
    "MicroStream",
    "ProtocolError",
    "Server",
    "Session",
    "SessionContext",
    "SocketSession",
    "Times",
    "dialect",
    "server_options",
]
