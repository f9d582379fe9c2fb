"""What an older version has kept in work queues becomes jobs, once and in its order."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import ensureDeferred, fail
from twisted.internet.task import Clock

from broker.core.jobs import Jobs
from broker.core.old_jobs import move_old_jobs
from broker.core.queues import Queues
from broker.core.service import SWEEP
from broker.errors import Unavailable
from broker.interfaces import IStore
from broker.messages import Mail
from broker.stores import open_store, sqlite_file
from broker.testing import make_broker, value_of
from tests.stores.test_sqlite_store import Home

NOW = 1_700_000_000.0


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(NOW)
    return clock


@pytest.fixture
def store(clock: Clock) -> IStore:
    store = open_store("memory:", clock=clock)
    store.startService()
    return store


def keep(queues: Queues, queue: str, *bodies: int) -> None:
    """Keep messages as older versions do."""
    for body in bodies:
        value_of(queues.put(Mail(queue, f"ref{body}", b"%d" % body, "ann", NOW - body)))


def move(store: IStore, clock: Clock) -> None:
    queues, jobs = Queues(store, clock, lambda _: []), Jobs(store, clock, lambda: "node", _never)
    value_of(ensureDeferred(move_old_jobs(store, queues, jobs)))


async def _never(client: str, session: str) -> bool:
    return False


def jobs_of(store: IStore, queue: str) -> list[tuple[bytes, str, str, float]]:
    found = value_of(store.jobs.ready(queue, 0, 1000, 0))
    return [(job.body, job.ref, job.source, job.time) for job in found]


def test_messages_of_work_queues_become_jobs_and_those_of_mailboxes_stay(store: IStore, clock: Clock) -> None:
    queues = Queues(store, clock, lambda _: [])
    keep(queues, "queue:q", *range(150))
    keep(queues, "queue:other.dead", 7)
    keep(queues, "client:bob", 8)
    move(store, clock)
    assert jobs_of(store, "q") == [(b"%d" % body, f"ref{body}", "ann", NOW - body) for body in range(150)]
    assert [body for body, *_ in jobs_of(store, "other.dead.old")] == [b"7"]
    assert [event.body.partition(b"\n")[2] for event in value_of(store.read("mail/client:bob", 0, 9))] == [b"8"]
    move(store, clock)
    assert len(jobs_of(store, "q")) == 150


def test_what_was_delivered_by_the_older_version_is_not_moved(store: IStore, clock: Clock) -> None:
    got: list[Any] = []

    class Taker:
        def post_mail(self, mail: Mail) -> bool:
            got.append(mail.body)
            return len(got) <= 2

    queues = Queues(store, clock, lambda _: [Taker()])
    queues._takers_of = lambda _: []
    keep(queues, "queue:q", 1, 2, 3)
    queues._takers_of = lambda _: [Taker()]
    queues.drain("queue:q")
    move(store, clock)
    assert [body for body, *_ in jobs_of(store, "q")] == [b"3"]


def test_a_move_that_was_interrupted_begins_again_and_doubles_nothing(
    store: IStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = Queues(store, clock, lambda _: [])
    keep(queues, "queue:q", *range(5))
    with monkeypatch.context() as broken:
        # The jobs were added, and their place in the log could not be noted.
        broken.setattr(store, "set", lambda *_, **__: fail(Unavailable("store")))
        with pytest.raises(Unavailable):
            move(store, clock)
    move(store, clock)
    assert [body for body, *_ in jobs_of(store, "q")] == [b"%d" % body for body in range(5)]


def test_a_broker_moves_them_at_its_start_and_what_older_nodes_write_later(clock: Clock) -> None:
    broker = make_broker(clock)
    keep(broker.queues, "queue:q", 1)
    clock.advance(SWEEP)
    assert [body for body, *_ in jobs_of(broker.store, "q")] == [b"1"]


def test_a_file_of_an_older_version_keeps_what_waits_in_its_queues(tmp_path: Path) -> None:
    home = Home(tmp_path)
    texts = {name: text.encode().hex() for name, text in (("log", "mail/queue:q"), ("queue", "queue:q"))}
    bodies = ['["ref",%d]\n%d' % (NOW, number) for number in range(3)]
    events = ",".join(
        f"(1, {number}, {NOW}, x'616e6e', x'6d61696c', x'{body.encode().hex()}', 5)"
        for number, body in enumerate(bodies, 1)
    )
    with closing(sqlite3.connect(home.path)) as file:
        file.executescript(
            f"{''.join(sqlite_file.schema_steps()[:2])}; PRAGMA application_id = {sqlite_file.APPLICATION_ID};"
            f"PRAGMA user_version = 2; INSERT INTO log (id, name) VALUES (1, x'{texts['log']}');"
            f"INSERT INTO event (log, id, time, source, name, body, topic) VALUES {events};"
            "INSERT INTO entry (space, key, value, revision, expires)"
            f" VALUES ('mail-at', x'{texts['queue']}', x'31', 1, 0);"
        )
    store = home.store()
    queues, jobs = Queues(store, home.clock, lambda _: []), Jobs(store, home.clock, lambda: "node", _never)
    home.result(ensureDeferred(move_old_jobs(store, queues, jobs)))
    found = home.result(store.jobs.ready("q", 0, 9, 0))
    assert [(job.body, job.ref, job.source) for job in found] == [(b"1", "ref", "ann"), (b"2", "ref", "ann")]
    home.stop(store)
