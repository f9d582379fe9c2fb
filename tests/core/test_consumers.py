"""Whom the next job of a queue goes to."""

from __future__ import annotations

from random import Random

import attrs
import pytest

from broker.core.consumers import Consumer, Consumers
from broker.jobs import Worker
from broker.messages import Mail


@attrs.define(eq=False)
class Peer:
    id: str
    ready: bool = True
    asked: int = 0

    def post_mail(self, mail: Mail) -> bool:
        return True

    def accepts_jobs(self, all_left: bool) -> bool:
        self.asked += 1
        return self.ready

    def hold(self, change: int) -> None:
        pass


@pytest.fixture
def consumers() -> Consumers:
    return Consumers()


def join(consumers: Consumers, id: str, prefetch: int, *, ack: bool = True, matches: bool = False) -> Consumer:
    consumer = Consumer(Peer(id), "q", ack, prefetch, 30.0, Worker(id), (lambda body: True) if matches else None)
    consumers.add(consumer)
    return consumer


def names(chosen: list[Consumer]) -> str:
    return "".join(each.peer.id for each in chosen)


def free(consumers: Consumers, consumer: Consumer) -> None:
    consumer.claiming -= 1
    consumers.offer(consumer)


def test_who_has_the_most_room_is_first(consumers: Consumers) -> None:
    for id, prefetch in zip("abc", (1, 3, 2), strict=True):
        join(consumers, id, prefetch)
    assert names(consumers.choose(True, 9)) == "bcbacb"
    assert consumers.first() is None


def test_of_several_with_as_much_room_the_one_that_has_it_for_the_longest_is_first(consumers: Consumers) -> None:
    ann, bob = join(consumers, "a", 1), join(consumers, "b", 1)
    consumers.choose(True, 2)
    free(consumers, bob)
    free(consumers, ann)
    assert names(consumers.choose(True, 2)) == "ba"


def test_no_more_are_chosen_than_asked_for(consumers: Consumers) -> None:
    join(consumers, "a", 1000)
    assert len(consumers.choose(True, 64)) == 64


def test_who_does_not_accept_is_asked_again_when_it_is_offered(consumers: Consumers) -> None:
    ann = join(consumers, "a", 1)
    assert isinstance(ann.peer, Peer)
    ann.peer.ready = False
    assert [consumers.first(), consumers.first(), ann.peer.asked] == [None, None, 1]
    ann.peer.ready = True
    consumers.offer(ann)
    assert consumers.first() is ann


def test_who_has_gone_is_not_chosen(consumers: Consumers) -> None:
    ann = join(consumers, "a", 9)
    consumers.choose(True, 3)
    consumers.remove(ann)
    consumers.offer(ann)
    assert (consumers.first(), len(consumers), consumers.acknowledging) == (None, 0, 0)


def test_those_that_acknowledge_those_that_do_not_and_those_that_filter_are_told_apart(consumers: Consumers) -> None:
    join(consumers, "a", 1)
    join(consumers, "b", 2, ack=False)
    carol = join(consumers, "c", 9, matches=True)
    first = consumers.first()
    assert first is not None
    assert (first.peer.id, list(consumers.filtering), consumers.acknowledging) == ("b", [carol], 1)
    assert (names(consumers.choose(True, 9)), names(consumers.choose(False, 9))) == ("a", "bb")
    consumers.remove(carol)
    assert not consumers.filtering


def test_to_find_the_first_of_many_nobody_else_is_looked_at(consumers: Consumers) -> None:
    everybody = [join(consumers, str(number), 1 + number % 3) for number in range(1000)]
    consumers.choose(True, 1)
    assert sum(each.peer.asked for each in everybody if isinstance(each.peer, Peer)) == 1


@pytest.mark.parametrize("seed", range(5))
def test_whatever_comes_and_goes_the_first_has_the_most_room(consumers: Consumers, seed: int) -> None:
    random = Random(seed)
    everybody = [join(consumers, str(number), random.randint(1, 5)) for number in range(6)]
    for _ in range(300):
        consumer = random.choice(everybody)
        if consumer.claiming and random.random() < 0.5:
            free(consumers, consumer)
        elif random.random() < 0.5:
            consumer.declined = not consumer.declined
            consumers.offer(consumer)
        else:
            consumers.choose(True, random.randint(1, 3))
        first = consumers.first()
        assert (first.room() if first else 0) == max(each.room() for each in everybody)
