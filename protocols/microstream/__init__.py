"""The MicroStream dialect: services that call each other through Socket.IO.

Speaks with ``socket.io-client`` 4.x, on which ``microstream-client`` is built.
Read from the bottom to the top: ``engineio`` and ``socketio`` are the two
protocols without I/O, ``sessions`` and ``server`` join the first to HTTP and
WebSocket, ``namespaces`` puts the second on it, and ``hub`` is what services see;
``words`` has its error codes.
"""

from protocols.microstream.hub import MicroStream, dialect

__all__ = ["MicroStream", "dialect"]
