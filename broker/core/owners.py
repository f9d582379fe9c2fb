"""Who owns which id that a client gives itself: an id belongs to the principal that first used it.

That is stored, by kind of id, so that it holds on every node and after a restart.  What a
principal is called by its credential is its own without that, and nobody else's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Protocol

import msgspec
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.core.bounded import BoundedDict
from broker.errors import BrokerError, Conflict, Denied, Invalid, RateLimited, Unavailable
from broker.interfaces import IStore
from broker.messages import SHARED, Announcement, Event, Identity, Quota, decode_text, encode_text
from broker.patterns import CONTROL_PREFIX, has_control, is_of_broker, is_reserved, is_session_id, pair_key

log = Logger()

SPACE = "owner"  # of the store: a key for each id that was used
CONTROL = CONTROL_PREFIX + "owner"  # topic by which nodes notify each other
MAX_KNOWN = 20000  # ids whose owner is remembered
DAY = 86400.0  # seconds: how often what is remembered is looked up again, and a claim extended

# Kinds of ids.
CLIENT_ID = "client"  # who an event or a message is from: cursors, mailboxes
MEMBER = "member"  # stored memberships
SERVICE_NAME = "service"
INDEX = "index"

_decode = msgspec.json.Decoder(tuple[str, str]).decode
_encode = msgspec.json.Encoder().encode


class Credentials(Protocol):
    """What owners need of ``access.Access``."""

    @property
    def configured(self) -> bool:
        """Whether any credential exists that could be shown."""

    @property
    def names_people(self) -> bool:
        """Whether any credential exists that names who shows it."""

    def owner_by_name(self, id: str) -> str:
        """Return whose *id* is by the configuration; "" for nobody's."""


class Owners:
    """Answers whether a principal may use an id, and makes those that it uses first its own.

    Args:
        store: keeps the owner of each id.
        access: knows whom credentials name.
        notify: brings an event to all nodes.
        clock: for how long it is remembered.
        replaced: called with a client id and its owner, when that is another one from now on.
        until_done: does something again and again while the store is away.
        lives: for how many seconds what is kept under an id lives without use, by kind; the
            id is its owner's for a little longer.  Of a kind without one, it is for ever.
        limit: how many ids one principal may own; 0: any number.

    Attributes:
        known: the owners that are remembered, by id and kind: whoever is the owner there may
            use the id, and need not ask ``claim`` but for its first use.
    """

    def __init__(
        self,
        store: IStore,
        access: Credentials,
        notify: Callable[[Event], object],
        clock: IReactorTime,
        replaced: Callable[[str, str], object],
        until_done: Callable[[Callable[[], Awaitable[object]]], object],
        lives: Mapping[str, float] | None = None,
        limit: int = 0,
    ) -> None:
        self._store, self._access, self._notify, self._clock = store, access, notify, clock
        self._replaced, self._lives, self._limit = replaced, lives or {}, limit
        self.known: BoundedDict[str, dict[str, str]] = BoundedDict(MAX_KNOWN)
        self._until_done = until_done
        self._storing: dict[str, Deferred[None]] = {}  # by client id: the owner by its name
        self._cleared = clock.seconds()

    async def claim(
        self, kind: str, id: str, identity: Identity, verb: str = "act", *, only_check: bool = False
    ) -> None:
        """Let *identity* use *id*, which is its own from now on if it was nobody's and not *only_check*.

        Raises:
            Denied: it is reserved, or could be the id of a session, or is another's whose ids *identity* may
                not use; *verb* goes into that.
            Invalid: it holds a control character.
            RateLimited: *identity* owns too many.
            Unavailable: the store is away.
        """
        if has_control(id):
            raise Invalid("id")
        if id == identity.client:
            return  # its own by its name, even one that is "key:…" in full
        if is_of_broker(id) if kind == SERVICE_NAME else is_reserved(id):
            raise Denied(verb, id)
        if kind == CLIENT_ID and is_session_id(id):
            raise Denied(verb, id)
        new = "" if only_check else identity.owner
        owner = self.known.get(id, {}).get(kind) or await self._find(kind, id, new)
        owner = self.called(id) or owner  # he may have come meanwhile
        if owner:
            self._remember(kind, id, owner)
        elif only_check and identity.owner:
            return  # it can have it
        if not _may_use(identity, owner, id, self._access.names_people):
            raise Denied(verb, id)

    async def extend(self, kind: str, id: str) -> None:
        """Let the claim of *id* live on, whoever's it is: what is kept under it was used.

        Raises:
            Unavailable: the store can not be read.
        """
        if kind in self.known.get(id, ()):
            return
        entry = await self._store.get(SPACE, pair_key(kind, id))
        if entry is not None:
            owner = decode_text(entry.value)
            if 0 < entry.expires < self._end(kind):
                try:
                    await self._set(kind, id, owner, revision=entry.revision)
                except (Conflict, Unavailable):
                    return  # another was faster, or the next use tries again
            self._remember(kind, id, owner)

    def claim_name(self, identity: Identity) -> None:
        """Make the client id that is *identity*'s by its name known as such; idempotent.

        Who has used it before, without being called so, must not any more.  Where the
        store is away that is logged and tried again.
        """
        if identity.client and self.known.get(identity.client, {}).get(CLIENT_ID) != identity.owner:
            self.known[identity.client] = {CLIENT_ID: identity.owner}
            storing = ensureDeferred(self._store_name(identity.client, identity.owner))
            storing.addErrback(self._name_not_stored, identity.client, identity.owner)
            if not storing.called:
                self._storing[identity.client] = storing
                storing.addCallback(lambda _: self._stored(identity.client))

    def called(self, id: str) -> str:
        """Return the principal that is called *id*, as far as it is remembered; "" for none."""
        owner = self.known.get(id, {}).get(CLIENT_ID, "")
        return owner if owner in (f"key:{id}", f"user:{id}") else ""

    def settled(self, client: str) -> Deferred[None] | None:
        """Fire when the owner of *client*, by its name, is known to all nodes; None: it is."""
        storing = self._storing.get(client)
        if storing is None:
            return None
        settled: Deferred[None] = Deferred()
        storing.addCallback(lambda _: settled.callback(None))
        return settled

    def moved(self, event: Event) -> None:
        """Notice that the client id that *event* names has got another owner."""
        id, owner = _decode(event.body or b"")
        self.known[id] = {CLIENT_ID: owner}
        self._replaced(id, owner)

    def sweep(self) -> bool:
        """Forget, once a day, what is remembered; say whether that was done.

        A claim may have ended, and one in use is extended when it is looked up again.
        """
        now = self._clock.seconds()
        if 0 <= now - self._cleared < DAY:
            return False
        self._cleared = now
        self.known.clear()
        return True

    def age(self, used: Callable[[str], bool]) -> None:
        """Forget the ids that were not looked up for a while, apart from those that are *used* without that."""
        self.known.age(lambda id: used(id) or id in self._storing)

    async def restore(self) -> None:
        """Store again what is remembered: the store has lost it.

        Raises:
            Unavailable: some of it is not stored.
        """
        for id, kinds in list(self.known.items()):
            for kind, owner in list(kinds.items()):
                try:
                    await self._set(kind, id, owner, revision=0)
                except (Conflict, RateLimited):
                    kinds.pop(kind, None)

    def _remember(self, kind: str, id: str, owner: str) -> None:
        kinds = self.known.get(id)
        if kinds is None:
            self.known[id] = {kind: owner}
        else:
            kinds[kind] = owner

    async def _find(self, kind: str, id: str, new: str) -> str:
        """Return the owner of *id*, which is *new* if there was none; "" for nobody."""
        owner = self._access.owner_by_name(id)
        if owner:
            return owner
        if not self._access.configured:
            return SHARED  # nobody could be anybody else
        if kind != CLIENT_ID:
            entry = await self._store.get(SPACE, pair_key(CLIENT_ID, id))
            if entry is not None and entry.value == encode_text(f"user:{id}"):
                return f"user:{id}"
        while True:
            entry = await self._store.get(SPACE, pair_key(kind, id))
            try:
                if entry is None:
                    return await self._set(kind, id, new, revision=0) if new else ""
                owner = decode_text(entry.value)
                if owner == new and 0 < entry.expires < self._end(kind):
                    await self._prolong(kind, id, owner, entry.revision)
                return owner
            except Conflict:
                continue  # another was faster

    async def _prolong(self, kind: str, id: str, owner: str, revision: int) -> None:
        """Let the claim of *id* live on; while nothing can be stored it is its owner's all the same, as it has been.

        Raises:
            Conflict: it is another's meanwhile.
        """
        try:
            await self._set(kind, id, owner, revision=revision)
        except Unavailable:
            return

    async def _store_name(self, id: str, owner: str) -> None:
        """Store *owner* in the place of whoever owned the client id *id*."""
        if not self._access.configured:
            return
        while True:
            entry = await self._store.get(SPACE, pair_key(CLIENT_ID, id))
            if entry is not None and entry.value == encode_text(owner) and not 0 < entry.expires < self._end(CLIENT_ID):
                return
            # Whoever has used that name for another kind of id may not any more: all nodes look it up again.
            changes = entry is None or entry.value != encode_text(owner)
            body, now = _encode((id, owner)), self._store.wall.time()
            made = Announcement(CONTROL, "owner", now, body, stored=True) if changes and self._store.announces else None
            try:
                await self._set(CLIENT_ID, id, owner, revision=entry.revision if entry is not None else 0, made=made)
            except Conflict:
                continue
            break
        if changes:
            self.known[id] = {CLIENT_ID: owner}
            if made is None:
                self._notify(Event(CONTROL, "owner", body, time=now))

    async def _set(self, kind: str, id: str, owner: str, *, revision: int, made: Announcement | None = None) -> str:
        key, value, end = pair_key(kind, id), encode_text(owner), self._end(kind)
        # What somebody is called is his however many ids he owns.
        quota = None if kind == CLIENT_ID and owner.endswith(f":{id}") else Quota("ids", owner, self._limit)
        await self._store.set(SPACE, key, value, revision=revision, expires=end, quota=quota, announcement=made)
        return owner

    def _end(self, kind: str) -> float:
        """Return when a claim that is made or used now expires: whole days, so that most uses change nothing.

        It may be used for a day more before it is looked up again, and what is kept
        under the id may live for a tenth longer than its life; see ``lives.life_end``.
        """
        life = self._lives.get(kind, 0.0)
        return (self._store.wall.time() // DAY + 2) * DAY + 1.2 * life if life else 0.0

    def _stored(self, id: str) -> None:
        del self._storing[id]

    def _name_not_stored(self, failure: Failure, id: str, owner: str) -> None:
        failure.trap(BrokerError)
        log.warn("the owner of a client id was not stored: {reason}", reason=str(failure.value))
        if failure.check(Unavailable):
            self._until_done(partial(self._store_name_again, id, owner))
        else:
            self.known.pop(id, None)

    async def _store_name_again(self, id: str, owner: str) -> None:
        if self.called(id) == owner:  # else it is another's meanwhile, or was forgotten: the next use tries again
            await self._store_name(id, owner)


def _may_use(identity: Identity, owner: str, id: str, names_people: bool) -> bool:
    """Whether *identity* may use *id*, which is *owner*'s; "": nobody's."""
    if owner and owner == identity.owner:
        return True
    # Without credentials that name people, who holds the shared secret is trusted with what named ones have left.
    if identity.owner == SHARED and not names_people:
        return True
    return identity.grants is not None and identity.grants.may_act(id)
