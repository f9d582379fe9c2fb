"""Where stored topics and keys live."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from zope.interface import Attribute

from broker.interfaces.clocks import IWallClock
from broker.jobs import IJobStore
from broker.messages import Addition, Announce, Announcement, Entry, Event, Quota

MAX_PAGE_BYTES = 1 << 23  # bytes of bodies that one read of a stored topic returns


class IStore(IService):
    """Where stored topics and keys live.

    Logs and keys are separate: a log is named by any string but the empty one,
    a key by a *space* (a short fixed word) and any string.

    Every method returns a Deferred.  It fails with ``Unavailable`` when the
    store is away, not started, stopped, or can not keep up, and then nothing has
    changed; or when it fails or is lost while it writes, and then that may have been done
    all the same.  Cancelling gives up the answer, not the operation.

    Operations of one caller take effect in the order in which they were called,
    whether or not it waited in between; a read sees every write called before
    it.  Of a log or a range it may also see what was appended or set after it was called,
    for small writes do not wait behind large reads.  When a write has answered, it survives
    ``kill -9`` of the daemon and, with the durability "fsync", a power cut (but for the memory
    store, which forgets at its stop).  Bodies and values come back byte for byte.

    ``startService`` raises ``Unavailable``, saying why, when the store can not be
    opened; ``stopService`` answers when all that was called before is done.

    Each change of a key (it is set, patched or increased, removed, or its time is over) gets a *revision*: a number of
    its space, which rises by one with each change of any of its keys, and goes on when a key is removed or the store
    is opened again.  So no two contents of a key have the same.  After a kill of the daemon some may be left out.
    A store of an older version, where each key had its own, is converted: those that are given are above all there are.

    What a write creates, a log or a key, counts against its *quota* until it is removed
    or forgotten: the store has one count for each kind and owner, which it keeps as safely
    as the rest.  A write that changes what is there counts nothing, whoever made that.

    A store that is *full*, by a limit of its own or because the disk nearly is, refuses what
    makes it larger with ``Unavailable``.  It goes on to read, to remove, and to ``set`` keys that
    exist to values of up to 64 bytes, or no longer than before.

    A change of a key and the event of its *announcement* are one step: either both are there or none
    is, also when the answer was lost.  A store that announces publishes the event in that step, so that
    those of one key arrive everywhere in the order of the changes; any other
    leaves that to the caller, and answers in the order of the changes.  An event that is to be stored is
    appended in that step in either case: then a store that is full refuses all but removals.
    """

    epoch: str = Attribute("Changes when the store was wiped or has gone back; known once started.")
    jobs: IJobStore = Attribute("Keeps the jobs of work queues.")
    wall: IWallClock = Attribute("Its time: of what it stores, and of when that ends; the same for all nodes.")
    shared: bool = Attribute("Whether several nodes may use this store at once.")
    announces: bool = Attribute("Whether append, and what changes keys, itself publishes the event on the bus.")
    ready: str = Attribute("Why writes can not be taken now; '' when they can.")
    degraded: str = Attribute("What is wrong although writes are taken; '' for nothing.")
    description: str = Attribute("Its kind as one word, then where it is and what it promises; without secrets.")
    used_bytes: int = Attribute("How large it is, as far as it knows; 0: it does not.")
    wiped: Callable[[], object] = Attribute(
        "Called when ``epoch`` has changed since the store was seen last, as soon as operations are possible."
    )

    def append(
        log: str,
        event: Event,
        quota: Quota | None = None,
        head: int | None = None,
        key: str = "",
        key_seconds: float = 0.0,
    ) -> Deferred[Event]:
        """Store *event* at the end of *log*; return a copy with ``id`` and ``epoch`` set.

        With *head*, only if that is what ``head`` returns.  With *key*, only if *log* has got no event by
        that key in the last *key_seconds*: else what is returned is a ``duplicate``, with id and time of the
        first event, whatever has become of that; *head* does not matter then.

        Topic, name, body (None and b"" are two things), whether that is binary, source, author, content type, expiry
        and time are stored; an event whose time is 0 gets the store's, or that of the last event of the log if
        that is later, because the clock was set back.

        Ids of a log rise by one, from 1, without a hole as any reader sees
        them, and none is ever used twice, whatever has been trimmed.  An event
        is visible with its id and its body at once, or not at all.  Where logs were
        forgotten (``sweep``), a new one may begin with a later id than 1.
        What has expired is read all the same: its reader leaves it out.

        Raises:
            Conflict: *head* was given and is not the last id; its ``data`` is the ``Position`` of that as JSON, and
                its name the id.
            RateLimited: it would be the first of a log, and *quota* is used up.
        """

    def append_all(additions: Sequence[Addition], key_seconds: float = 0.0) -> Deferred[list[Event]]:
        """Append all events of *additions*, in their order, or none; return what ``append`` would, for each.

        They are visible together.  Conditions of a later one see what the earlier ones leave: its *head* counts
        them, and a key that an earlier one has brought makes a duplicate.

        Raises:
            Conflict: as for ``append``.
            RateLimited: as for ``append``, with all new logs together.
        """

    def read(log: str, after: int, limit: int, max_bytes: int = 0) -> Deferred[list[Event]]:
        """Return at most *limit* events with id > *after*, in rising order.

        With *max_bytes* it may return fewer, but for the first: it reads no more once those that it has
        read have as many bytes, counting texts as UTF-8 and at most 100 more for each; 0: any number.
        """

    def latest(log: str, limit: int, max_bytes: int = 0) -> Deferred[list[Event]]:
        """Return the last *limit* events, in rising order; with *max_bytes* perhaps fewer, as in read."""

    def head(log: str) -> Deferred[int]:
        """Return the last id given in *log*, trimmed or not; 0 for none.

        Of a log that was forgotten it is that or a later one, which the next event follows.
        """

    def trim(log: str, upto: int) -> Deferred[None]:
        """Forget the events of *log* with id <= *upto*, however large that is."""

    def sweep(prefix: str, before: float, keep: int) -> Deferred[int]:
        """Forget old events of every log whose name begins with *prefix*.

        Those with a time before *before* (0: none for its age) and those beyond
        the newest *keep* (0: none for their count) go.  The oldest go first, and
        an old one behind a young one stays: there is never a hole.  Keys that
        expired an hour ago go too; until then they are left to ``expired``, and those of the
        space ``kv`` always, since they are announced.  It may work in steps that others see.
        Returns how many events went.

        A log of that prefix that has no event left is forgotten, now or by a later
        sweep: it is none any more, but for its ids.
        """

    def oldest(seconds: float) -> float:
        """Return the time before which what is kept for *seconds* is too old.

        A jump of the store's clock counts for this, and for the expiry of keys, when it has lasted an hour only.
        """

    def get(space: str, key: str) -> Deferred[Entry | None]:
        """Return the entry of *key*, or None if it is missing or has expired."""

    def set(
        space: str,
        key: str,
        value: bytes,
        *,
        revision: int | None = None,
        expires: float = 0.0,
        quota: Quota | None = None,
        announcement: Announcement | None = None,
    ) -> Deferred[Entry]:
        """Create or replace *key*.

        With *revision*, only if the stored revision equals it (0: is missing).  The answer says whether it was
        ``created``.
        A key that has expired is missing, for every method but ``expired``.

        Raises:
            Conflict: *revision* was given and is not the stored one.
            RateLimited: it would create *key*, and *quota* is used up.
        """

    def delete(
        space: str, key: str, *, revision: int | None = None, announcement: Announcement | None = None
    ) -> Deferred[bool]:
        """Remove *key*; say whether it was there.  *revision* as in set."""

    def patch(
        space: str,
        key: str,
        value: bytes,
        merge: Callable[[bytes, bytes], bytes],
        *,
        quota: Quota | None = None,
        announcement: Announcement | None = None,
    ) -> Deferred[Entry]:
        """Replace the value by ``merge(stored, value)`` in one step.

        A missing key is created with *value*; a present one keeps its expiry.
        *merge* is a pure function known to every store (``broker.core.keys.merge``); it may
        be called in another thread, and more than once, and a store may do
        the same work elsewhere.  If it raises, the caller gets that and nothing changes.

        Raises:
            RateLimited: it would create *key*, and *quota* is used up.
        """

    def increment(
        space: str, key: str, amount: bytes, *, quota: Quota | None = None, announcement: Announcement | None = None
    ) -> Deferred[Entry]:
        """Add the decimal number *amount* to the stored one, in one step.

        A missing key counts as 0; a present one keeps its expiry.  Integers stay
        integers, exact to 2^53 and beyond; otherwise the shortest decimal text
        of the double, without a fraction when it is whole.

        Raises:
            Invalid: one of the two is no number, or one or the sum is not finite as a double.
            RateLimited: it would create *key*, and *quota* is used up.
        """

    def range(space: str, first: str, last: str, limit: int, max_bytes: int = 0) -> Deferred[list[tuple[str, Entry]]]:
        """Return the entries with first <= key <= last, by the keys' UTF-8 bytes.

        At most *limit*, in rising order.  With *max_bytes* there may be fewer: none
        follows when the values have as many; the first is returned however long it is.
        """

    def expired(space: str, limit: int, announce: Announce | None = None) -> Deferred[list[str]]:
        """Remove and return at most *limit* keys of *space* that have expired.

        Each is returned by exactly one such call, over all nodes, unless it was
        set again or swept before.  *announce* is called with each key; it may be called in another
        thread, and for keys that are not removed then.
        """

    def revision(space: str) -> Deferred[int]:
        """Return the last revision that was given in *space*, or a later one; 0 for none."""

    def logs(prefix: str, after: str, limit: int) -> Deferred[list[str]]:
        """Return names of logs that begin with *prefix* and sort after *after*.

        At most *limit*, in rising order of their UTF-8 bytes; a log that was
        trimmed empty is still one until a sweep forgets it.
        """


class ISharedStore(IStore):
    """What a store that several nodes use at once offers besides.

    ``startService`` never fails: a server that is away may come later.  When the
    connection breaks while an operation is under way, that fails with
    ``Unavailable`` although it may have been done: its answer is what was lost.

    Some logs are *marked*, those of topics.  A mark is a number that rises with what is
    written; by it a node finds what it has missed.

    The data may *go back*: a replica that lacks what was acknowledged last becomes the server, or a server is
    started from a snapshot, or with nothing.  A node that has seen more than there is, in its answers or by
    ``witness``, begins another epoch, and those that share the store get the same one.  That is
    noticed on each new connection before anything is written by it, and by each operation, which takes
    effect in the new epoch then; so no id is given twice in one epoch, unless a node that alone has seen it
    could not be waited for.  What only nodes have seen that have gone since is lost in silence.
    """

    server: str = Attribute("Which server it is connected to, another word each time one is started; '' for none yet.")
    kept: int = Attribute(
        "The mark up to which what was stored before the present epoch is still there; 0: nothing is."
    )
    witness: Callable[[str, str], int] = Attribute(
        "Called with an epoch and a server: returns the highest mark of it that came to this node from there by the "
        "bus."
    )
    warnings: Sequence[str] = Attribute("What an operator should change at the server, a sentence each.")

    def mark() -> Deferred[int]:
        """Return the present mark."""

    def changes(mark: int) -> Deferred[dict[str, int]]:
        """Return the logs that were appended to after *mark*, each with the mark of the last time."""

    def since(log: str, mark: int) -> Deferred[int]:
        """Return the id of the first event of *log* after *mark*; 0 for none."""

    def keep_changes(seconds: int, previous: int) -> Deferred[None]:
        """Let the changes of keys be kept for so many *seconds*, or longer, for ``key_changes``.

        And let the events of changes, on all nodes, say the value before for *previous* seconds, or longer.
        """

    def key_changes(space: str, after: int, seconds: float) -> Deferred[tuple[int, list[Event] | None]]:
        """Return the last revision of *space*, and the events of the changes after the revision *after* in their order.

        The last 10,000 that were announced while ``keep_changes`` held are there, fewer if they are long.  None: some
        may be missing, or are older than so many seconds; or *after* was not given yet.
        """

    def publishes(origin: str) -> bool:
        """Whether an append of an event of that *origin* is under way."""

    def on_answer(call: Callable[[], object]) -> None:
        """Let *call* be called once, when the appends that are under way were answered; idempotent until then."""
