"""Queues that two nodes deliver from, when the store or the bus fail in between: without Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import attrs
import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from broker.cluster.queues import LOCK_RETRY, RETRY_DELAY, SharedQueues
from broker.core.queues import POSITION
from broker.errors import Unavailable
from broker.messages import Event, Mail
from broker.stores import open_store
from broker.testing import value_of

QUEUE = "queue:q"


@attrs.define(eq=False)
class Taker:
    willing: bool = True
    got: list[bytes] = attrs.field(factory=list)

    def post_mail(self, mail: Mail) -> bool:
        if self.willing:
            self.got.append(mail.body)
        return self.willing


@attrs.define(eq=False)
class Bus:
    """What queues need of a bus; ``leases`` are those that Redis knows, ``known`` those that this node knows."""

    address: str
    leases: dict[str, int]
    known: dict[str, int] = attrs.field(factory=dict)

    @property
    def lease(self) -> int:
        return self.leases.get(self.address, 0)

    def lease_of(self, address: str) -> int:
        return self.known.get(address, 0)

    def holders(self, names: list[str]) -> Deferred[tuple[str, list[str]]]:
        self.known = dict(self.leases)
        return succeed((names[0], list(self.leases)))


class Store:
    """A store whose writes of positions fail, or fail to be answered, while ``broken`` says so."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.broken: Callable[[], bool] = lambda: False
        self.done_all_the_same = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def set(self, space: str, key: str, value: bytes, **options: Any) -> Any:
        if not self.broken():
            return self._store.set(space, key, value, **options)
        if self.done_all_the_same:
            self._store.set(space, key, value, **options)
        return fail(Unavailable("redis"))


class Node:
    def __init__(self, world: World, address: str) -> None:
        self.store = cast(Any, Store(world.store))
        self.takers: list[Taker] = []
        self.bus = Bus(address, world.leases)
        self.told: list[str] = []
        self.deaf = False
        self.queues = SharedQueues(self.store, world.clock, lambda _: list(self.takers), 1000)
        self.queues.use(self.bus, self.notify)  # type: ignore[arg-type]
        self.others: list[Node] = []

    async def notify(self, queue: str) -> bool:
        self.told.append(queue)
        if self.deaf:
            raise Unavailable("redis")
        for other in self.others:
            other.queues.wake(queue)
        return True

    def take(self, *, willing: bool = True) -> Taker:
        taker = Taker(willing)
        self.takers.append(taker)
        self.queues.drain(QUEUE)
        return taker

    def put(self, body: bytes) -> Deferred[bool]:
        return self.queues.put(Mail(QUEUE, "", body))


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.store: Any = open_store("memory:", clock=self.clock)
        self.store.startService()
        self.leases = {"one": 1, "two": 2}
        self.one, self.two = Node(self, "one"), Node(self, "two")
        self.one.others, self.two.others = [self.two], [self.one]
        for node in (self.one, self.two):
            node.bus.known = dict(self.leases)

    def lock(self) -> bytes:
        return bytes(value_of(self.store.get(POSITION, QUEUE)).value)


@pytest.fixture
def world() -> World:
    return World()


def test_a_lock_that_can_not_be_given_back_is_given_back_later(world: World) -> None:
    value_of(world.two.put(b"1"))
    calls = iter([False, False] + [True] * 5)  # locking and the position succeed
    world.one.store.broken = lambda: next(calls, False)
    taker = world.one.take()
    assert (taker.got, world.lock()) == ([b"1"], f"1 one 1 {world.store.epoch}".encode())
    world.one.takers.clear()
    value_of(world.two.put(b"2"))
    other = world.two.take()
    world.clock.pump([LOCK_RETRY] * 4)
    assert other.got == []
    world.clock.pump([RETRY_DELAY] * 6)
    assert (other.got, world.lock()) == ([b"2"], b"2")
    assert len(world.one.queues) == 0


def test_an_empty_queue_is_not_locked(world: World) -> None:
    value_of(world.one.put(b"1"))
    assert world.one.take().got == [b"1"]
    value_of(world.store.set(POSITION, QUEUE, b"1 one 1"))  # it has handed out all that there was
    world.two.store.broken = lambda: True  # a lock would be written
    other = world.two.take()
    value_of(world.two.put(b"2"))
    assert other.got == [b"2"]


def test_a_lock_whose_answer_was_lost_is_given_back(world: World) -> None:
    value_of(world.two.put(b"1"))
    calls = iter([True, True])
    world.one.store.broken, world.one.store.done_all_the_same = lambda: next(calls, False), True
    taker = world.one.take()
    assert taker.got == []
    world.one.takers.clear()
    world.clock.pump([RETRY_DELAY] * 4)
    assert world.two.take().got == [b"1"]


def test_a_lock_that_came_back_when_the_store_went_back_is_none(world: World) -> None:
    value_of(world.two.put(b"1"))
    world.store.set(POSITION, QUEUE, b"0 one 1 another-epoch")
    assert world.two.take().got == [b"1"]


def test_when_the_store_went_back_what_is_kept_there_is_delivered(world: World) -> None:
    taker = world.one.take()
    value_of(world.store.append("mail/" + QUEUE, Event(QUEUE, "mail", b'["",1.0]\n1', time=world.clock.seconds())))
    assert taker.got == []
    world.one.queues.lost()
    assert taker.got == [b"1"]


@pytest.mark.parametrize("lock", [b"0 one 1", b"0 gone 7"])
def test_a_lock_of_a_lease_that_has_ended_is_none(world: World, lock: bytes) -> None:
    value_of(world.store.set(POSITION, QUEUE, lock))
    world.leases["one"] = 3  # the node lives on, under another number
    world.two.bus.known["one"] = 3
    value_of(world.two.put(b"1"))
    assert world.two.take().got == [b"1"]


def test_a_lock_of_a_node_that_has_come_just_now_is_one(world: World) -> None:
    value_of(world.store.set(POSITION, QUEUE, b"0 three 3"))
    world.leases["three"] = 3
    value_of(world.two.put(b"1"))
    assert world.two.take().got == []
    value_of(world.store.set(POSITION, QUEUE, b"0"))
    world.clock.advance(LOCK_RETRY)
    assert world.two.takers[0].got == [b"1"]


def test_a_lock_of_an_older_version_is_one_as_long_as_its_node_lives(world: World) -> None:
    value_of(world.store.set(POSITION, QUEUE, b"0 one"))
    value_of(world.two.put(b"1"))
    taker = world.two.take()
    assert taker.got == []
    del world.two.bus.known["one"], world.leases["one"]
    world.clock.advance(LOCK_RETRY)
    assert taker.got == [b"1"]


def test_a_node_without_a_lease_delivers_nothing_that_is_kept(world: World) -> None:
    del world.leases["one"]
    value_of(world.one.put(b"1"))
    taker = world.one.take()
    assert taker.got == []
    world.leases["one"] = 5
    world.clock.advance(LOCK_RETRY)
    assert taker.got == [b"1"]


def test_a_lease_that_ends_while_the_queue_is_read_ends_the_delivery(world: World) -> None:
    value_of(world.one.put(b"1"))
    read: Deferred[Any] = Deferred()
    reads = iter([succeed(None), read])  # the first only shows that there is something
    world.one.store.read = lambda *words: next(reads).addCallback(lambda _: world.store.read(*words))
    taker = world.one.take()
    world.leases["one"] = 5
    assert world.two.take().got == []  # it does not know yet
    del world.one.store.read
    read.callback(None)
    assert taker.got == []
    world.clock.advance(LOCK_RETRY)
    assert len(taker.got + world.two.takers[0].got) == 1


def test_the_others_are_notified_until_they_know(world: World) -> None:
    taker = world.two.take()
    world.one.deaf = True
    value_of(world.one.put(b"1"))
    value_of(world.one.put(b"2"))
    assert taker.got == []
    world.clock.advance(RETRY_DELAY)
    world.one.deaf = False
    world.clock.advance(RETRY_DELAY)
    assert taker.got == [b"1", b"2"]
    assert world.one.told == [QUEUE] * 3
    assert not world.one.queues._notifier._again


def test_the_others_are_notified_of_what_may_have_been_stored(world: World) -> None:
    taker = world.two.take()

    def append(*words: Any) -> Deferred[Any]:
        value_of(world.store.append(*words))
        return fail(Unavailable("redis"))

    world.one.store.append = append
    with pytest.raises(Unavailable):
        value_of(world.one.put(b"1"))
    assert taker.got == [b"1"]


def test_stopping_leaves_no_timer(world: World) -> None:
    value_of(world.one.put(b"1"))
    world.one.deaf = True
    value_of(world.one.put(b"2"))
    world.one.store.broken = lambda: True
    world.one.take()
    assert len(world.clock.getDelayedCalls()) == 2  # it notifies, and gives the lock back
    world.one.queues.stop()
    assert world.clock.getDelayedCalls() == []


def test_a_lock_of_an_old_queue_whose_answer_was_lost_is_given_back(world: World) -> None:
    value_of(world.two.put(b"1"))
    calls = iter([True])
    world.one.store.broken, world.one.store.done_all_the_same = lambda: next(calls, False), True

    async def move() -> None:
        await world.one.queues.move(QUEUE, lambda *_: succeed(None))

    with pytest.raises(Unavailable):
        value_of(Deferred.fromCoroutine(move()))
    assert world.lock() == b"0"
    assert world.two.take().got == [b"1"]


class Past:
    """A store that goes back just when a position is *asked for*, or *written*; its messages are others then."""

    def __init__(self, store: Any, when: str) -> None:
        self._store, self._when = store, when
        self.gone_back = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @property
    def epoch(self) -> str:
        return "another" if self.gone_back else str(self._store.epoch)

    def get(self, space: str, key: str) -> Any:
        found = self._store.get(space, key)
        self.gone_back |= self._when == "asked for"
        return found

    def set(self, *words: Any, **options: Any) -> Any:
        self.gone_back |= self._when == "written"
        return self._store.set(*words, **options)


@pytest.mark.parametrize("when", ["asked for", "written"])
def test_a_position_is_not_moved_to_an_id_of_another_epoch(world: World, when: str) -> None:
    world.store.append("mail/" + QUEUE, Event(QUEUE, "mail", b'["",1.0]\n1', time=world.clock.seconds()))
    value_of(world.store.set(POSITION, QUEUE, b"3"))
    epoch, world.one.queues._store = world.store.epoch, cast(Any, Past(world.store, when))
    value_of(Deferred.fromCoroutine(world.one.queues._advance(QUEUE, 7, epoch)))
    assert world.lock() == b"3"
    value_of(Deferred.fromCoroutine(world.one.queues._advance(QUEUE, 7, "another")))
    assert world.lock() == b"7"


def test_a_lock_written_in_another_epoch_is_written_again(world: World) -> None:
    value_of(world.one.put(b"1"))
    world.one.queues._store = cast(Any, Past(world.store, "written"))
    assert value_of(Deferred.fromCoroutine(world.one.queues._lock(QUEUE, 1)))
    assert world.lock() == b"0 one 1 another"
