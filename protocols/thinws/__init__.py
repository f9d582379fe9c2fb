"""ThinWS: rooms over one WebSocket, for the clients of npm's ``thinws``.

A room is a topic.  What a client subscribes to is stored under its
``connectionID`` and joined again at its next ``connect``.  The shipped client
comes back about a millisecond after any close, so that nothing is refused by
closing: the client gets an error frame.

Read on in this order: ``dialect`` (who may connect), ``frames`` (what is said),
``session`` (what that does).
"""

from protocols.thinws.dialect import ThinWs, dialect

__all__ = ["ThinWs", "dialect"]
