"""Events of changes of keys as the script of the Redis store takes them, which publishes or stores them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from itertools import chain, count
from typing import Any

from broker.messages import Announcement, encode_text
from broker.patterns import LOG_PREFIX
from broker.redis.event_codec import encode_extras, encode_record, message_head, open_extras

# Where the value stands for which the script puts another: no text has a quote after it.
ZERO = b'"0"'
FOUND = b"1"  # in the place of the value before: what the script finds
ALONE, STORED = b"p", b"s"  # how an event is published


class KeyEvent:
    """The event of one change of a key.

    Args:
        announcement: says what it is.
        stamp: for its message, which no other one has: see ``event_codec``.
        publishes: whether the script publishes it; else it stores it, and returns its id.
        epoch: returns that of the store.
    """

    def __init__(self, announcement: Announcement, stamp: bytes, publishes: bool, epoch: Callable[[], str]) -> None:
        self.origin = announcement.origin if publishes else ""
        self._announcement, self._stamp, self._publishes, self._epoch = announcement, stamp, publishes, epoch
        announcement.published = publishes

    def encode(self, value: bytes | None, previous: bytes = FOUND) -> tuple[bytes, bytes, bytes, bytes]:
        """Return the words of the event of a change that leaves *value*, as ``announce`` of ``keys.lua`` has them.

        *previous* says the value before, as ``Event.original`` does.
        """
        announcement = self._announcement
        event = announcement.event_of(value)
        kind, start = STORED if announcement.stored else ALONE, b"-"
        if self._publishes and announcement.numbered:
            kind, start = kind + previous, open_extras(event.origin, event.dialect)
        elif self._publishes:
            start = encode_extras(event)
        if not announcement.stored:
            start = message_head(self._stamp) + start
        return encode_text(LOG_PREFIX + event.topic), kind, start, encode_record(event, event.time)

    def encode_around(self) -> tuple[bytes, bytes, bytes, bytes, bytes]:
        """Return the same for a whole number that the script computes: the record before it, and after it."""
        log, kind, start, record = self.encode(b"0")
        before, _, after = record.rpartition(ZERO)
        return log, kind, start, before + b'"', b'"' + after

    def made(self, revision: int, value: bytes | None, ids: Sequence[int | list[Any]]) -> None:
        """Note the *revision* of the change, and the id of its event if that was stored and not published."""
        if not self._publishes:
            self._announcement.made(revision, None, known=False)
        for id in ids:
            self._store(id, value)

    def _store(self, id: int | list[Any], value: bytes | None) -> None:
        """Take the *id* of the event of the change that has left *value*, with its time if it has got another."""
        event = self._announcement.event_of(value)
        if isinstance(id, list):
            event.id, event.time = id[0], float(id[1])
        else:
            event.id = id
        event.epoch = self._epoch()
        self._announcement.event = event


class KeyEvents:
    """Makes those of one store.

    Args:
        publishes, epoch: as for ``KeyEvent``.
    """

    def __init__(self, publishes: bool, epoch: Callable[[], str]) -> None:
        self._publishes, self._epoch = publishes, epoch
        self._serial = secrets.token_hex(6).encode()
        self._numbers = count(1)

    def of(self, announcement: Announcement | None) -> KeyEvent | None:
        """Return the event that the script makes; None if it makes none."""
        if announcement is None or not (self._publishes or announcement.stored):
            return None
        stamp = b"%b.%d" % (self._serial, next(self._numbers))
        return KeyEvent(announcement, stamp, self._publishes, self._epoch)


def announced(change: Sequence[bytes], events: Sequence[Sequence[bytes]]) -> Sequence[bytes]:
    """Return the words of *change*, a change of a key, with those of its *events* before them."""
    return (b"announced", b"%d" % len(events), *chain.from_iterable(events), *change) if events else change


def split(result: Any) -> tuple[Any, list[Any]]:
    """Return what a change has returned, and the ids of its events: those that were stored and not published.

    With an id in a list is the time of its event, if that is not the one of its record.
    """
    if type(result) is list:
        return result[0], result[1:]
    return result, []
