"""The dialect of plain HTTP, at ``/v1/``: for programs that have no WebSocket client.

Topics, keys, calls, work queues and cursors are paths, and what goes on for long is a stream of server-sent events.
Read on in this order: ``dialect`` (which request goes where), ``operations`` (what a request may be), ``requests``
(what one says), ``answers``, ``topics``, ``streams``, ``members``, ``cursors``, ``keys``, ``calls``, ``queues``,
``openapi``.
"""

from protocols.http.dialect import dialect

__all__ = ["dialect"]
