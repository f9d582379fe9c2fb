"""The MicroStream dialect: services that call each other through Socket.IO.

Clients are those of ``socket.io-client`` 4.x, on which ``microstream-client`` is built.
From the bottom to the top: ``engineio`` and ``socketio`` are the two protocols
without I/O; ``sessions``, ``upgrade`` and ``server`` connect the first to HTTP and
WebSocket, and ``namespaces`` adds the second; ``hub`` is the dialect, and ``wire``
has the shapes of its messages and its error codes.
"""

from protocols.microstream.hub import MicroStream, dialect

__all__ = ["MicroStream", "dialect"]
