"""The tables of jobs: in the file of the SQLite store, and, for the store without a file, in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from broker.errors import BrokerError, NotFound, RateLimited
from broker.jobs import Claimed, Job, QueueState, Settled, Slot, Worker
from broker.messages import Mail, Quota, decode_text, encode_text
from broker.stores.expiry import Expiry

# States.  A blocked job waits for another one of its order key; a waiting one has failed.
READY, BLOCKED, DELAYED, WAITING, FLIGHT, DEAD = STATES = range(6)
ACTIVE = (READY, WAITING, FLIGHT)  # one job of an order key is

NUMBERS = 1000  # that are reserved by one write
STEP = 200  # jobs whose time has come that one call looks at
SWEPT = 2000  # jobs or keys that one step of a sweep looks at
MAX_STATES = 500  # queues, of more of which the total is counted without the oldest
MAX_DELIVERED = "it was delivered {} times without an end"

_JOB = (
    "j.id, q.name, j.body, j.ref, j.source, j.time, j.token, j.deliveries, j.failures, j.reason, j.worker,"
    " coalesce(j.ordered, x''), j.due"
)
_FROM = "FROM job j JOIN queue q ON q.id = j.queue"
_READY = f"SELECT {_JOB} {_FROM} WHERE j.state = 0 AND j.queue = ? AND j.id > ? ORDER BY j.id LIMIT ?"
_CHOSEN = f"SELECT {_JOB} {_FROM} WHERE j.state = 0 AND j.queue = ? AND j.id = ?"
_DEAD = f"SELECT {_JOB} {_FROM} WHERE j.state = 5 AND j.queue = ? AND j.id > ? ORDER BY j.id LIMIT ?"
_NODE = (f"SELECT {_JOB}, j.named {_FROM} WHERE j.state = 4 AND j.node = ? AND j.id > ? ORDER BY j.id LIMIT ?").replace(
    "j.body", "x''"
)
_ROW = (
    "SELECT j.queue, q.name, j.state, j.token, j.worker, j.ordered, j.failures, j.deliveries, j.node"
    f" {_FROM} WHERE j.id = ?"
)
_ADD = (
    "INSERT INTO job (id, queue, state, due, expires, added, time, source, ref, body, ordered)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_RESTORE = (
    "INSERT INTO job (id, queue, state, due, expires, added, time, source, ref, body, ordered, token, deliveries,"
    " failures, reason) VALUES (?, ?, ?, 0, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_CLAIM = (
    "UPDATE job SET state = 4, due = ?, token = token + 1, deliveries = deliveries + 1, worker = ?, named = ?, node = ?"
    " WHERE id = ?"
)
_ACTIVE = "SELECT 1 FROM job WHERE queue = ? AND ordered = ? AND state IN (0, 3, 4) LIMIT 1"
_BEHIND = "SELECT id, due FROM job WHERE queue = ? AND ordered = ? AND state = 1 ORDER BY id LIMIT 1"
_COME = (
    "SELECT id, state, ordered, due FROM job WHERE queue = ? AND due > ? AND due <= ? AND state IN (2, 3)"
    " ORDER BY due LIMIT ?"
)
_ENDED = (
    "SELECT id, state, ordered FROM job WHERE queue = ? AND expires > 0 AND expires > ? AND expires <= ?"
    " AND state < 4 ORDER BY expires LIMIT ?"
)
_NEXT_DUE = "SELECT min(due) FROM job WHERE queue = ? AND state IN (2, 3)"
_ENDING = "SELECT DISTINCT queue FROM job WHERE expires > 0"
_COUNTS = "SELECT queue, state, count(*) FROM job GROUP BY state, queue"
_OLDEST = "SELECT added FROM job WHERE state = ? AND queue = ? AND (expires <= 0 OR expires > ?) ORDER BY id LIMIT 1"
_WINDOW = "SELECT id, queue, state, ordered, added, due FROM job WHERE id > ? ORDER BY id LIMIT ?"
_RESERVE = "INSERT OR REPLACE INTO meta (name, value) VALUES ('jobs', ?)"


class JobTables:
    """The changes and the queries, by the connection that writes; see ``IJobStore`` for what each does.

    Each change happens as a whole, within a transaction of the caller, or raises before its first statement.

    Args:
        connection: to the tables.
        expiry: says what has ended, and what time it is.
        count: counts a new queue for a quota, or raises, and returns its account.
        uncount: undoes that for an account.
        check_room: raises when nothing may be added.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        expiry: Expiry,
        count: Callable[[Quota | None], bytes | None],
        uncount: Callable[[bytes | None], object],
        check_room: Callable[[], object],
    ) -> None:
        self._expiry = expiry
        self._count, self._uncount, self._check_room = count, uncount, check_room
        self.attach(connection)

    def attach(self, connection: sqlite3.Connection) -> None:
        """Use *connection* from now on."""
        self._execute, self._executemany = connection.execute, connection.executemany
        self.forget()

    def forget(self) -> None:
        """Forget what is known of the tables: a transaction was undone."""
        self._loaded = False
        self._queues: dict[bytes, int] = {}
        self._counts: dict[int, list[int]] = {}  # by queue: how many jobs are in each state
        self._ending: set[int] = set()  # queues that have, or have had, jobs with a ttl
        self._number = self._reserved = 0

    def _load(self) -> None:
        if self._loaded:
            return
        for number, name in self._execute("SELECT id, name FROM queue"):
            self._queues[name] = number
            self._counts[number] = [0] * len(STATES)
        for number, state, count in self._execute(_COUNTS):
            self._counts[number][state] = count
        self._ending.update(row for (row,) in self._execute(_ENDING))
        found = self._execute("SELECT value FROM meta WHERE name = 'jobs'").fetchone()
        self._number = self._reserved = int(found[0]) if found else 0
        self._loaded = True

    def _queue(self, queue: str) -> int:
        """Return the row of *queue*, 0 for none."""
        self._load()
        return self._queues.get(encode_text(queue), 0)

    # Adding.

    def add(
        self,
        queue: str,
        mail: Mail,
        key: str,
        key_seconds: float,
        order: str,
        delay: float,
        ttl: float,
        limit: int,
        quota: Quota | None,
    ) -> tuple[int, bool]:
        """See ``IJobStore.add``."""
        self._check_room()
        row, now = self._queue(queue), self._expiry.look().now
        if row and key and (first := self._first_of(row, key)):
            return first, True
        if row and 0 < limit <= sum(self._counts[row][:DEAD]):
            raise RateLimited("limit", "jobs")
        if row and order:
            self._come(row)  # one of its order key whose time has come is before it
        row = row or self._begin(queue, quota)
        number = self._next_number()
        ordered = encode_text(order) if order else None
        state = DELAYED if delay > 0 else self._state_for(row, ordered)
        due, expires = now + delay, now + ttl if ttl else 0.0
        texts = encode_text(mail.source), encode_text(mail.ref)
        self._execute(_ADD, (number, row, state, due, expires, now, mail.time, *texts, mail.body, ordered))
        self._counts[row][state] += 1
        if ttl:
            self._ending.add(row)
        if key:
            words = row, encode_text(key), number, now + key_seconds
            self._execute("INSERT OR REPLACE INTO job_key (queue, key, job, expires) VALUES (?, ?, ?, ?)", words)
        return number, False

    def _first_of(self, row: int, key: str) -> int:
        found = self._execute(
            "SELECT job, expires FROM job_key WHERE queue = ? AND key = ?", (row, encode_text(key))
        ).fetchone()
        return int(found[0]) if found and not self._expiry.is_over(found[1]) else 0

    def _begin(self, queue: str, quota: Quota | None) -> int:
        account, name = self._count(quota), encode_text(queue)
        row = self._execute("INSERT INTO queue (name, account) VALUES (?, ?)", (name, account)).lastrowid
        assert row is not None
        self._queues[name], self._counts[row] = row, [0] * len(STATES)
        return row

    def _next_number(self) -> int:
        if self._number >= self._reserved:
            self._reserved = self._number + NUMBERS
            self._execute(_RESERVE, (self._reserved,))
        self._number += 1
        return self._number

    def _state_for(self, row: int, ordered: bytes | None) -> int:
        """Return the state of a job whose time has come."""
        if ordered is None:
            return READY
        return READY if self._execute(_ACTIVE, (row, ordered)).fetchone() is None else BLOCKED

    def restore(self, job: Job) -> None:
        """See ``IJobStore.restore``."""
        row = self._queue(job.queue) or self._begin(job.queue, None)
        ordered = encode_text(job.order) if job.order else None
        state = self._state_for(row, ordered)
        texts = encode_text(job.source), encode_text(job.ref), job.body, ordered
        done = job.token, job.deliveries - 1, job.failures, encode_text(job.reason)
        self._execute(_RESTORE, (job.number, row, state, self._expiry.look().now, job.time, *texts, *done))
        self._counts[row][state] += 1

    # Moving.

    def _move(self, row: int, number: int, before: int, after: int, due: float = 0.0) -> None:
        self._execute("UPDATE job SET state = ?, due = ? WHERE id = ?", (after, due, number))
        self._counted(row, before, after)

    def _counted(self, row: int, before: int, after: int | None = None) -> None:
        counts = self._counts[row]
        counts[before] -= 1
        if after is not None:
            counts[after] += 1

    def _remove(self, row: int, number: int, state: int, ordered: bytes | None) -> bool:
        """Remove a job; say whether another one is ready now for that."""
        self._execute("DELETE FROM job WHERE id = ?", (number,))
        self._counted(row, state)
        return self._unblock(row, state, ordered)

    def _unblock(self, row: int, state: int, ordered: bytes | None) -> bool:
        """Let the next job of an order key be ready whose active one was in *state*; say whether there is one."""
        if ordered is None or state not in ACTIVE:
            return False
        behind = self._execute(_BEHIND, (row, ordered)).fetchone()
        if behind is None:
            return False
        self._move(row, behind[0], BLOCKED, READY, behind[1])
        return True

    def _come(self, row: int) -> None:
        """Let jobs be ready whose time has come, and remove those whose ttl is over."""
        counts, ending = self._counts[row], row in self._ending
        if not ending and not counts[DELAYED] and not counts[WAITING]:
            return
        spans = self._expiry.look().spans()
        for after, upto in spans if ending else ():
            for number, state, ordered in self._execute(_ENDED, (row, after, upto, STEP)).fetchall():
                self._remove(row, number, state, ordered)
        for after, upto in spans:
            for number, state, ordered, due in self._execute(_COME, (row, after, upto, STEP)).fetchall():
                self._move(row, number, state, self._state_for(row, ordered) if state == DELAYED else READY, due)

    def claim(
        self,
        queue: str,
        slots: Sequence[Slot],
        numbers: Sequence[int] | None,
        remove: bool,
        max_bytes: int,
    ) -> Claimed:
        """See ``IJobStore.claim``."""
        row = self._queue(queue)
        if not row:
            return Claimed([])
        self._come(row)
        jobs = self._ready(row, len(slots), numbers, max_bytes)
        if remove:
            for job in jobs:
                self._remove(row, job.number, READY, encode_text(job.order) if job.order else None)
        else:
            slot_of = dict(zip(numbers, slots, strict=True)) if numbers is not None else {}
            self._give(
                row, [(job.number, slot_of.get(job.number, slot)) for job, slot in zip(jobs, slots, strict=False)]
            )
        return Claimed(jobs, self._next_due(row))

    def _give(self, row: int, given: list[tuple[int, Slot]]) -> None:
        now = self._expiry.look().now
        self._executemany(
            _CLAIM,
            [
                (now + lease, encode_text(worker.client), worker.named, encode_text(worker.node), number)
                for number, (worker, lease) in given
            ],
        )
        self._counts[row][READY] -= len(given)
        self._counts[row][FLIGHT] += len(given)

    def _ready(self, row: int, count: int, numbers: Sequence[int] | None, max_bytes: int) -> list[Job]:
        if numbers is None:
            return _jobs(self._execute(_READY, (row, 0, count)), max_bytes, 1)
        found = (self._execute(_CHOSEN, (row, number)).fetchone() for number in dict.fromkeys(numbers))
        return _jobs((each for each in found if each is not None), max_bytes, 1)

    def _next_due(self, row: int) -> float | None:
        if not (self._counts[row][DELAYED] or self._counts[row][WAITING]):
            return None
        (due,) = self._execute(_NEXT_DUE, (row,)).fetchone()
        return None if due is None else self._expiry.left(due)

    # What becomes of a delivery.

    def _delivery(self, number: int, token: int, client: str | None = None) -> tuple[Any, ...]:
        """Return the row of a job whose last delivery, to *client*, is that of *token*.

        Raises:
            NotFound: there is none.
        """
        self._load()
        found = self._execute(_ROW, (number,)).fetchone()
        if found is None or found[3] != token or (client is not None and found[4] != encode_text(client)):
            raise gone(number)
        return tuple(found)

    def finish(self, number: int, token: int, client: str) -> Settled:
        """See ``IJobStore.finish``."""
        row, name, state, _, _, ordered, *_ = self._delivery(number, token, client)
        return Settled(decode_text(name), self._remove(row, number, state, ordered))

    def fail(self, number: int, token: int, client: str, reason: str, delays: Sequence[float], expired: str) -> Settled:
        """See ``IJobStore.fail``."""
        row, name, state, _, _, ordered, failures, _, node = self._delivery(number, token, client)
        if expired and node != encode_text(expired):
            raise gone(number)
        if state != FLIGHT:
            if expired or state == BLOCKED:
                raise gone(number)
            self._execute("UPDATE job SET reason = ?, token = token + 1 WHERE id = ?", (encode_text(reason), number))
            return Settled(decode_text(name), dead=state == DEAD)
        words = failures + 1, encode_text(reason), not expired, number
        self._execute("UPDATE job SET failures = ?, reason = ?, token = token + ? WHERE id = ?", words)
        if failures >= len(delays):
            return self._bury(row, name, number, ordered)
        now, delay = self._expiry.look().now, delays[failures]
        self._move(row, number, FLIGHT, WAITING if delay > 0 else READY, now + delay)
        return Settled(decode_text(name), delay <= 0, delay=delay)

    def _bury(self, row: int, name: bytes, number: int, ordered: bytes | None) -> Settled:
        self._move(row, number, FLIGHT, DEAD, self._expiry.look().now)
        return Settled(decode_text(name), self._unblock(row, FLIGHT, ordered), dead=True)

    def release(self, number: int, token: int, node: str, max_deliveries: int, delivered: bool) -> Settled:
        """See ``IJobStore.release``."""
        row, name, state, _, _, ordered, _, deliveries, found = self._delivery(number, token)
        if state != FLIGHT or found != encode_text(node):
            raise gone(number)
        if delivered and deliveries >= max_deliveries:
            reason = encode_text(MAX_DELIVERED.format(deliveries))
            self._execute("UPDATE job SET reason = ? WHERE id = ?", (reason, number))
            return self._bury(row, name, number, ordered)
        if not delivered:
            self._execute("UPDATE job SET deliveries = deliveries - 1 WHERE id = ?", (number,))
        self._move(row, number, FLIGHT, READY, self._expiry.look().now)
        return Settled(decode_text(name), True)

    def extend(self, number: int, token: int, worker: Worker, lease: float) -> Settled:
        """See ``IJobStore.extend``."""
        row, name, state, *_ = self._delivery(number, token, worker.client)
        if state not in ACTIVE:
            raise gone(number)
        self._execute(
            "UPDATE job SET named = ?, node = ? WHERE id = ?", (worker.named, encode_text(worker.node), number)
        )
        self._move(row, number, state, FLIGHT, self._expiry.look().now + lease)
        return Settled(decode_text(name))

    def adopt(self, node: str, heir: str, after: int, limit: int) -> list[tuple[Job, bool]]:
        """See ``IJobStore.adopt``."""
        rows = self._execute(_NODE, (encode_text(node), after, limit)).fetchall()
        self._executemany("UPDATE job SET node = ? WHERE id = ?", [(encode_text(heir), row[0]) for row in rows])
        return [(_job(row[:-1]), bool(row[-1])) for row in rows]

    # Looking.

    def nodes(self) -> list[str]:
        """See ``IJobStore.nodes``."""
        return [decode_text(node) for (node,) in self._execute("SELECT DISTINCT node FROM job WHERE state = 4")]

    def find(self, number: int) -> str | None:
        """See ``IJobStore.find``."""
        found = self._execute(_ROW, (number,)).fetchone()
        return None if found is None else decode_text(found[1])

    def ready(self, queue: str, after: int, limit: int, max_bytes: int) -> list[Job]:
        """See ``IJobStore.ready``."""
        row = self._queue(queue)
        if not row:
            return []
        self._come(row)
        return _jobs(self._execute(_READY, (row, after, limit)), max_bytes)

    def dead(self, queue: str, after: int, limit: int, max_bytes: int) -> list[Job]:
        """See ``IJobStore.dead``."""
        row = self._queue(queue)
        return _jobs(self._execute(_DEAD, (row, after, limit)), max_bytes) if row else []

    def state(self, queue: str) -> QueueState:
        """See ``IJobStore.state``."""
        row = self._queue(queue)
        return self._state_of(row) if row else QueueState()

    def _state_of(self, row: int) -> QueueState:
        passed, counts = self._expiry.look().passed, list(self._counts[row])
        for state, ended in self._execute(
            "SELECT state, count(*) FROM job WHERE queue = ? AND expires > 0 AND expires <= ? AND state < 4"
            " GROUP BY state",
            (row, passed),
        ):
            counts[state] -= ended
        come, waited = self._execute(
            "SELECT count(*), min(added) FROM job WHERE queue = ? AND due <= ? AND state IN (2, 3)"
            " AND (expires <= 0 OR expires > ?)",
            (row, passed, passed),
        ).fetchone()
        found = (self._execute(_OLDEST, (state, row, passed)).fetchone() for state in (READY, BLOCKED))
        times = [waited, *(each[0] for each in found if each is not None)]
        oldest = min((time for time in times if time is not None), default=0.0)
        ready, delayed = counts[READY] + counts[BLOCKED] + come, counts[DELAYED] + counts[WAITING] - come
        return QueueState(ready, delayed, counts[FLIGHT], counts[DEAD], oldest)

    def totals(self) -> QueueState:
        """See ``IJobStore.totals``."""
        self._load()
        counted = sum(1 for row in self._queues.values() if any(self._counts[row]))
        if counted <= MAX_STATES:
            return total_of(self._state_of(row) for row in self._queues.values() if any(self._counts[row]))
        ready, blocked, delayed, waiting, in_flight, dead = map(sum, zip(*self._counts.values(), strict=True))
        return QueueState(ready + blocked, delayed + waiting, in_flight, dead)

    def queues(self, after: str, limit: int) -> list[str]:
        """See ``IJobStore.queues``."""
        found = self._execute(
            "SELECT name FROM queue WHERE name > ? ORDER BY name LIMIT ?", (encode_text(after), limit)
        )
        return [decode_text(name) for (name,) in found]

    # What is dead or has ended.

    def _dead(
        self, queue: str, numbers: Sequence[int] | None, limit: int
    ) -> tuple[int, list[tuple[int, bytes | None]]]:
        row = self._queue(queue)
        if not row:
            return 0, []
        if numbers is None:
            found = self._execute(
                "SELECT id, ordered FROM job WHERE state = 5 AND queue = ? ORDER BY id LIMIT ?", (row, limit)
            ).fetchall()
            return row, found
        chosen = "SELECT id, ordered FROM job WHERE id = ? AND state = 5 AND queue = ?"
        found = [self._execute(chosen, (number, row)).fetchone() for number in dict.fromkeys(numbers)]
        return row, [each for each in found if each is not None]

    def retry(self, queue: str, numbers: Sequence[int] | None, limit: int) -> int:
        """See ``IJobStore.retry``."""
        row, jobs = self._dead(queue, numbers, limit)
        now = self._expiry.look().now
        for number, ordered in jobs:
            self._execute(
                "UPDATE job SET token = token + 1, deliveries = 0, failures = 0, expires = 0, added = ? WHERE id = ?",
                (now, number),
            )
            self._move(row, number, DEAD, self._state_for(row, ordered))
        return len(jobs)

    def drop(self, queue: str, numbers: Sequence[int] | None, limit: int) -> int:
        """See ``IJobStore.drop``."""
        row, jobs = self._dead(queue, numbers, limit)
        for number, ordered in jobs:
            self._remove(row, number, DEAD, ordered)
        return len(jobs)

    def sweep(self, after: int, seconds: float) -> tuple[int, int | None]:
        """Do one step of ``IJobStore.sweep``, from the job *after* on.

        Returns how many jobs were removed, and the one to go on with, None at the end.
        """
        self._load()
        removed = 0 if after else self._sweep_ends()
        before = self._expiry.oldest(seconds)
        rows = self._execute(_WINDOW, (after, SWEPT)).fetchall() if seconds else []
        # One that was delayed is as old as it has been ready.
        old = [row for row in rows if row[2] != FLIGHT and (row[5] if row[2] == DEAD else max(row[4:])) < before]
        for number, row, state, ordered, *_ in old:
            self._remove(row, number, state, ordered)
        return removed + len(old), rows[-1][0] if old and len(rows) == SWEPT else None

    def _sweep_ends(self) -> int:
        """Remove what its ttl has ended, keys that were kept for long enough, and queues that have nothing."""
        before = sum(map(sum, self._counts.values()))
        for row in self._queues.values():
            self._come(row)
        passed = self._expiry.look().passed
        for row, key in self._execute(
            "SELECT queue, key FROM job_key WHERE expires <= ? LIMIT ?", (passed, SWEPT)
        ).fetchall():
            self._execute("DELETE FROM job_key WHERE queue = ? AND key = ?", (row, key))
        for name, row in list(self._queues.items()):
            if not any(self._counts[row]):
                self._end(name, row)
        return before - sum(map(sum, self._counts.values()))

    def _end(self, name: bytes, row: int) -> None:
        if self._execute("SELECT 1 FROM job_key WHERE queue = ? LIMIT 1", (row,)).fetchone() is not None:
            return
        (account,) = self._execute("SELECT account FROM queue WHERE id = ?", (row,)).fetchone()
        self._execute("DELETE FROM queue WHERE id = ?", (row,))
        self._uncount(account)
        del self._queues[name], self._counts[row]
        self._ending.discard(row)


def gone(number: int) -> BrokerError:
    """Return the error for a delivery that is not the last of its job."""
    return NotFound("job", str(number))


def total_of(states: Iterable[QueueState]) -> QueueState:
    """Return the sum of *states*, with the oldest of all."""
    ready = delayed = in_flight = dead = 0
    oldest = 0.0
    for each in states:
        ready, delayed = ready + each.ready, delayed + each.delayed
        in_flight, dead = in_flight + each.in_flight, dead + each.dead
        oldest = min(filter(None, (oldest, each.oldest)), default=0.0)
    return QueueState(ready, delayed, in_flight, dead, oldest)


def _jobs(rows: Iterable[Sequence[Any]], max_bytes: int, delivered: int = 0) -> list[Job]:
    """Return the jobs of *rows*, no more once their bodies have *max_bytes* bytes; 0: any number.

    They have so many more deliveries than the rows say.
    """
    jobs, size = [], 0
    for row in rows:
        jobs.append(_job(row, delivered))
        size += len(jobs[-1].body)
        if 0 < max_bytes <= size:
            break
    return jobs


def _job(row: Sequence[Any], delivered: int = 0) -> Job:
    number, queue, body, ref, source, time, token, deliveries, failures, reason, worker, order, until = row
    return Job(
        number,
        decode_text(queue),
        body,
        decode_text(ref),
        decode_text(source),
        time,
        token + delivered,
        deliveries + delivered,
        failures,
        decode_text(reason),
        decode_text(worker),
        decode_text(order),
        until,
    )
