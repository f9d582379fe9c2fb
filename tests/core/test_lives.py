"""What clients create ends: each kind has a life without use and a limit for each principal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock

from broker.config.options import Retention
from broker.core.lives import STEPS, life_end
from broker.core.service import SWEEP
from broker.errors import NotFound, RateLimited
from broker.messages import Event, Identity, Mail
from broker.testing import make_broker, value_of

DAY = 86400.0
LIFE = 10 * DAY
START = 1_700_000_000.0
DOCS = Path(__file__).parent.parent.parent / "docs"


class Session:
    """Takes nothing."""

    def event(self, event: Event, pattern: str) -> None:
        """Ignore it."""

    def mail(self, mail: object) -> bool:
        return False


class House:
    """A broker with short lives, and whatever its clients do in it."""

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        options: dict[str, Any] = {"retention": Retention(LIFE, 0), "api_secret": "secret", "auth": "optional"}
        options |= {f"{kind}_seconds": LIFE for kind in ("cursor", "index", "membership", "client", "mailbox")}
        options |= settings
        self.broker = make_broker(self.clock, **options)
        self.store: Any = self.broker.store

    def peer(self, identity: Identity | None = None, dialect: str = "test") -> Any:
        peer = self.broker.attach(dialect, "127.0.0.1")
        peer.bind(Session())  # type: ignore[arg-type]
        peer.admit(identity or Identity("secret"))
        return peer

    def wait(self, seconds: float) -> None:
        """Let time pass, with a sweep at its end and one after that."""
        self.clock.advance(seconds)
        for _ in range(3):
            self.clock.advance(SWEEP)

    def rows(self) -> int:
        """Count the logs and keys of the store, and what counts them."""
        keys = sum(len(space.entries) + len(space.owners) for space in self.store._spaces.values())
        jobs = self.store._job_tables
        (rows,) = jobs._execute("SELECT (SELECT count(*) FROM job) + (SELECT count(*) FROM queue)").fetchone()
        return len(self.store._logs) + keys + len(self.store._counts) + int(rows)


def done(work: Any) -> Any:
    return value_of(work if isinstance(work, Deferred) else ensureDeferred(work))


def cursor(house: House, peer: Any, name: str) -> None:
    done(peer.move_cursor(name, "news", 1))


def index(house: House, peer: Any, name: str) -> None:
    assert done(peer.create_index(name, "news", "field"))
    done(peer.post("news", "x", b"1"))
    done(peer.read_index(name, "x", lambda event, field: event.name))


def membership(house: House, peer: Any, name: str) -> None:
    member = house.peer(peer.identity)
    done(member.become(f"member of {peer.identity.principal}"))
    done(member.join(name))
    member.close()


def client(house: House, peer: Any, name: str) -> None:
    named = house.peer(peer.identity)
    done(named.take_name(name))
    named.close()


def channel(house: House, peer: Any, name: str) -> None:
    done(peer.post(name, "x", b"1"))


def queue(house: House, peer: Any, name: str) -> None:
    done(peer.enqueue("", b"1", recipient=f"queue:{name}"))


def key(house: House, peer: Any, name: str) -> None:
    done(peer.set(name, b"1", expires=house.clock.seconds() + LIFE))


KINDS = {
    "cursors": cursor,
    "indices": index,
    "memberships": membership,
    "channels": channel,
    "queues": queue,
    "keys": key,
}


def test_an_end_is_up_to_a_tenth_later_and_stays_the_same_for_as_long() -> None:
    for now in (0.0, START, START + 0.3):
        assert LIFE < life_end(now, LIFE) - now <= LIFE * (1 + 1 / STEPS)
    assert len({life_end(START + hour * 3600, LIFE) for hour in range(240)}) <= STEPS + 1
    assert life_end(START, 0.0) == 0.0


@pytest.mark.parametrize("kind", [*KINDS, "clients"])
def test_what_is_not_used_ends_and_leaves_no_row(kind: str) -> None:
    house = House()
    peer = house.peer()
    before = house.rows()
    for number in range(20):
        {**KINDS, "clients": client}[kind](house, peer, f"n{number}")
    assert house.rows() > before + 20
    house.wait(2 * LIFE)
    assert house.rows() <= before


@pytest.mark.parametrize("kind", KINDS)
def test_one_more_than_its_limit_is_refused_to_a_principal_and_not_to_another(kind: str) -> None:
    house = House(**{f"max_{kind}": 2})
    ann, bob = house.peer(), house.peer(Identity("user", "bob", "bob"))
    if kind != "channels":
        done(ann.post("news", "x", b"1"))
    for name in ("a", "b"):
        KINDS[kind](house, ann, name)
    with pytest.raises(RateLimited, match=f"limit {kind}"):
        KINDS[kind](house, ann, "c")
    KINDS[kind](house, bob, "d")
    house.wait(2 * LIFE)
    KINDS[kind](house, ann, "e")


def test_a_client_id_beyond_the_limit_has_no_mailbox() -> None:
    house = House(max_clients=1)
    for name in ("ann", "bob"):
        client(house, house.peer(), name)
    assert done(house.broker.parts.mailboxes.has("ann"))
    assert not done(house.broker.parts.mailboxes.has("bob"))


def test_what_is_used_lives_on() -> None:
    house = House()
    peer, member, named = house.peer(), house.peer(), house.peer()
    index(house, peer, "i")
    done(peer.move_cursor("c", "news", 7))
    done(member.become("ann"))
    done(member.join("room"))
    done(named.take_name("bob"))
    named.appear()
    for _ in range(10):
        house.wait(LIFE / 2)
        done(peer.post("news", "x", b"1"))
        assert done(peer.cursor("c", "news")) == 7
        assert done(peer.read_index("i", "x", lambda event, field: event.name)).events
    member.close()
    named.close()
    house.wait(LIFE / 2)
    assert done(house.peer().become("ann")) == ["room"]
    assert done(house.broker.parts.mailboxes.has("bob"))


def test_an_index_that_has_ended_leaves_its_rows_to_no_other_of_its_id() -> None:
    house = House(retention=Retention(0, 0))
    peer = house.peer()
    index(house, peer, "i")
    house.wait(2 * LIFE)
    with pytest.raises(NotFound):
        done(peer.read_index("i", "x", lambda event, field: event.name))
    assert [log for log in house.store._logs if log.startswith("index/")] == []
    done(peer.create_index("i", "other", "field"))
    assert done(peer.read_index("i", "x", lambda event, field: event.name)).events == []


def test_an_index_that_ends_just_before_it_is_made_again_begins_anew() -> None:
    house = House(retention=Retention(0, 0))
    peer = house.peer()
    index(house, peer, "i")
    house.store._remove("index", "i")  # no sweep has come since
    assert done(peer.create_index("i", "other", "field"))
    assert done(peer.read_index("i", "x", lambda event, field: event.name)).events == []


def test_indices_with_strange_values_are_told_apart() -> None:
    house = House(retention=Retention(0, 0))
    peer = house.peer()
    for name in ("i", "10", "i\U0010ffff", "j"):
        done(peer.create_index(name, "news", "field"))
    for value in ("", ":", "1", "\U0010ffff" * 9, "\U0010ffff" * 300):
        done(peer.post("news", "x" + value, b"1"))
    for name in ("i", "10", "i\U0010ffff", "j"):
        done(peer.read_index(name, "x", lambda event, field: event.name))
    house.store._remove("index", "i")
    house.wait(0)
    left = {log.partition("/")[2].partition("x")[0] for log in house.store._logs if log.startswith("index/")}
    assert left == {"2:10", "2:i\U0010ffff", "1:j"}


def test_a_queue_that_begins_anew_drops_nothing_and_keeps_its_order() -> None:
    house = House(max_mailbox=3)
    queues = house.broker.queues
    for _ in range(5):
        done(queues.put(Mail("client:bob", "", b"1")))
    house.wait(2 * LIFE)
    assert house.store._logs == {}
    assert [done(queues.put(Mail("client:bob", "", b"%d" % n))) for n in range(4)] == [False, False, False, True]
    kept = done(house.store.read("mail/client:bob", 0, 9))
    assert [event.body.partition(b"\n")[2] for event in kept] == [b"1", b"2", b"3"]


def test_a_reader_of_a_channel_that_ended_gets_what_comes_then() -> None:
    house = House()
    peer = house.peer()
    for _ in range(5):
        channel(house, peer, "news")
    house.wait(2 * LIFE)
    assert house.store._logs == {}
    channel(house, peer, "news")
    assert [event.id for event in done(peer.poll("news", 5, 9, 0.0))] == [6]


def test_the_table_of_the_docs_has_each_setting_of_what_clients_create() -> None:
    from broker.config.settings import Settings

    table = (DOCS / "operations" / "limits.rst").read_text("utf-8")
    names = [f"max_{kind}" for kind in (*KINDS, "clients", "mailbox", "store_bytes")]
    names += [f"{kind}_seconds" for kind in ("cursor", "index", "membership", "client", "mailbox")]
    for name in [*names, "retention", "min_free_bytes"]:
        assert hasattr(Settings(), name)
        assert f":envvar:`TXBROKER_{name.upper()}`" in table, name
