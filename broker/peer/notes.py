"""The verbs of notes: what a dialect has to know of its clients at any node, for some time."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from broker.core.notes import MAX_NOTES, SPACE, note_key
from broker.messages import Entry, quota_of
from broker.patterns import check_name
from broker.peer.client import Client


class NoteVerbs(Client):
    """Note, look up, forget.  They do nothing for a client that it could notice, and so need no permission."""

    __slots__ = ()

    def note(self, name: str, value: bytes, seconds: float, *, revision: int | None = None) -> Deferred[Entry]:
        """See ``IPeer.note``."""
        store, identity = self._parts.store, self.identity
        quota = quota_of("notes", identity.kind, identity.name, MAX_NOTES)
        expires = store.wall.time() + seconds
        return store.set(SPACE, self._note_key(name), value, revision=revision, expires=expires, quota=quota)

    def noted(self, name: str) -> Deferred[Entry | None]:
        """See ``IPeer.noted``."""
        return self._parts.store.get(SPACE, self._note_key(name))

    def forget_note(self, name: str, *, revision: int | None = None) -> Deferred[bool]:
        """See ``IPeer.forget_note``."""
        return self._parts.store.delete(SPACE, self._note_key(name), revision=revision)

    def _note_key(self, name: str) -> str:
        if not self.admitted:
            raise self.unauthenticated("note")
        return note_key(self.dialect, self.identity.owner or self.id, check_name(name, "note"))
