"""The ganomede dialect: events over HTTP, with ids, cursors and long polls.

Speaks with the npm package ``ganomede-events``.  What it calls a channel is a
stored topic of the broker.  Read on in this order: ``dialect`` (which request
goes where), ``requests`` (what one says), ``events``,
``indices``, ``server``, ``answers``.
"""

from protocols.ganomede.dialect import dialect

__all__ = ["dialect"]
