"""What becomes of the names of a node: every transition, and two nodes that want one name."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock

from broker.cluster.claims import BATCH, MAX_BATCH, PAUSE, RATE, RELEASES, RETRY, VISITS, Claims
from broker.cluster.transitions import TRANSITIONS, Event, State
from broker.errors import NotDone, Taken, Unavailable
from broker.testing import value_of


class Bus:
    """Keeps what it is asked for, until the test answers."""

    def __init__(self) -> None:
        self.lease = self.unbroken_since = 1
        self.asked: list[tuple[Any, ...]] = []
        self.new: list[Container[str]] = []
        self.answers: list[Deferred[Any]] = []

    def _ask(self, *words: Any) -> Deferred[Any]:
        self.asked.append(words)
        answer: Deferred[Any] = Deferred()
        self.answers.append(answer)
        return answer

    def claim(self, name: str, *, shared: bool = False) -> Deferred[None]:
        return self._ask("claim", name, shared)

    def claim_all(self, names: Mapping[str, bool], new: Container[str] = ()) -> Deferred[dict[str, str]]:
        self.new.append(new)
        return self._ask("claim_all", dict(names))

    def release(self, *names: str) -> Deferred[bool]:
        return self._ask("release", *names)

    def answer(self, result: Any = None) -> tuple[Any, ...]:
        """Answer the first that waits with *result*; return what it was."""
        answer = self.answers.pop(0)
        if isinstance(result, Exception):
            answer.errback(result)
        else:
            answer.callback(result)
        return self.asked.pop(0)


class Node:
    """The claims of a node, and who holds names there."""

    def __init__(self, bus: Any = None, clock: Clock | None = None) -> None:
        self.bus: Any = bus or Bus()
        self.clock = clock or Clock()
        self.needed: set[str] = set()
        self.lost: list[str] = []
        self.granted: list[str] = []
        self.renewed = 0
        self.claims = Claims(
            self.bus, self.clock, self.needed.__contains__, self._on_lost, self.granted.append, self._on_renewed
        )

    def _on_lost(self, name: str) -> None:
        self.lost.append(name)
        self.needed.discard(name)
        self.claims.release(name)

    def _on_renewed(self) -> None:
        self.renewed += 1

    def join(self, name: str = "n", shared: bool = False) -> Deferred[None]:
        """Claim *name*; hold it when it was granted, as ``Peer.perform`` does."""
        claim, granted = self.claims.join(name, shared)

        def end(result: Any) -> Any:
            if result is None:
                self.needed.add(name)
            self.claims.leave(claim)
            return result

        return granted.addBoth(end)

    def leave(self, name: str = "n") -> None:
        self.needed.discard(name)
        self.claims.release(name)

    def hold(self, name: str = "n") -> None:
        self.needed.add(name)
        self.claims.hold(name)

    def lapse(self) -> None:
        self.bus.lease = 0
        self.claims.lapsed()

    def renew(self, number: int = 2) -> None:
        self.bus.lease = number
        self.claims.leased()

    @property
    def state(self) -> State:
        claim = self.claims._claims.get("n")
        return State.FREE if claim is None else claim.state


@pytest.fixture
def node() -> Node:
    return Node()


def held(node: Node, name: str = "n", shared: bool = False) -> None:
    joined = node.join(name, shared)
    node.bus.answer()
    value_of(joined)


def test_a_name_is_held_when_the_bus_says_so(node):
    joined = node.join()
    assert not joined.called
    assert not node.claims.holds("n")
    assert node.claims.is_pending("n")
    assert node.bus.answer() == ("claim", "n", False)
    value_of(joined)
    assert node.claims.holds("n")
    assert not node.claims.is_pending("n")
    node.leave()
    assert not node.claims.holds("n")
    assert node.bus.answer(True) == ("release", "n")
    assert len(node.claims) == 0


def test_a_refusal_leaves_nothing_behind(node):
    joined = node.join()
    node.bus.answer(Taken("exists", "n"))
    with pytest.raises(Taken):
        value_of(joined)
    assert (len(node.claims), node.bus.asked, node.lost) == (0, [], [])


@pytest.mark.parametrize("error", [Unavailable("redis"), NotDone("redis")])
def test_what_was_not_answered_is_given_back(node, error):
    joined = node.join()
    node.bus.answer(error)
    with pytest.raises(type(error)):
        value_of(joined)
    assert node.bus.answer(True) == ("release", "n")
    assert len(node.claims) == 0


def test_a_claim_that_was_cancelled_is_given_back_when_it_was_granted(node):
    joined = node.join()
    joined.cancel()
    with pytest.raises(CancelledError):
        value_of(joined)
    assert node.bus.answer() == ("claim", "n", False)
    assert node.bus.answer(True) == ("release", "n")
    assert len(node.claims) == 0


def test_a_release_whose_outcome_is_unknown_is_repeated_until_it_is_done(node):
    held(node)
    node.leave()
    node.bus.answer(False)
    assert node.state is State.STALE
    node.clock.advance(RETRY)
    assert node.bus.answer(True) == ("release", "n")
    assert len(node.claims) == 0


def test_whoever_comes_while_it_is_given_back_claims_it_after_that(node):
    held(node)
    node.leave()
    joined = node.join()
    assert node.bus.asked == [("release", "n")]
    node.bus.answer(True)
    assert node.bus.answer() == ("claim", "n", False)
    value_of(joined)
    assert node.claims.holds("n")


def test_one_who_leaves_does_not_release_what_a_newcomer_has(node):
    held(node, shared=True)
    claim, granted = node.claims.join("n", True)
    value_of(granted)
    node.leave()
    assert node.claims.holds("n")
    assert node.bus.asked == []
    node.claims.leave(claim)
    assert node.bus.asked == [("release", "n")]


def test_one_who_leaves_while_another_waits_for_the_same_answer_releases_nothing(node):
    first, second = node.join(shared=True), node.join(shared=True)
    first.addErrback(lambda _: None).cancel()
    assert node.bus.answer() == ("claim", "n", True)
    value_of(second)
    assert node.claims.holds("n")
    assert node.bus.asked == []


def test_two_who_do_not_both_share_are_not_both_let_in(node):
    first = node.join(shared=True)
    with pytest.raises(Taken):
        node.join(shared=False)
    node.bus.answer()
    value_of(first)
    with pytest.raises(Taken):
        node.join(shared=False)


def test_a_claim_of_one_who_has_gone_is_repeated_as_the_next_one_needs_it(node):
    node.join(shared=True).addErrback(lambda _: None).cancel()
    joined = node.join(shared=False)
    assert node.bus.answer() == ("claim", "n", True)
    assert not joined.called
    assert node.bus.answer(True) == ("release", "n")
    assert node.bus.answer() == ("claim", "n", False)
    value_of(joined)


def test_what_was_claimed_for_one_who_has_gone_is_given_back_when_the_next_one_is_refused(node):
    node.join(shared=True).addErrback(lambda _: None).cancel()
    joined = node.join(shared=False)
    node.bus.answer()
    assert node.bus.answer(True) == ("release", "n")
    node.bus.answer(Taken("exists", "n"))  # another node shares it
    with pytest.raises(Taken):
        value_of(joined)
    assert node.bus.asked == []


def test_a_name_that_can_not_be_had_yet_is_asked_for_again(node):
    joined = node.join()
    node.bus.answer(NotDone("lease", retry_after=0.2))
    assert (node.bus.asked, joined.called) == ([], False)
    node.clock.advance(0.2)
    assert node.bus.answer() == ("claim", "n", False)
    value_of(joined)


def test_a_name_is_not_held_without_a_lease_and_claimed_again_under_the_next(node):
    held(node)
    node.lapse()
    assert not node.claims.holds("n")
    node.renew()
    assert not node.claims.holds("n")
    assert node.bus.answer({}) == ("claim_all", {"n": False})
    assert node.claims.holds("n")
    node.clock.advance(PAUSE)
    assert node.renewed == 1


def test_a_name_that_another_has_claimed_meanwhile_is_lost(node):
    held(node)
    node.lapse()
    node.renew()
    node.bus.answer({"n": "other"})
    assert (node.lost, len(node.claims)) == (["n"], 0)


def test_what_was_granted_under_a_lease_that_has_ended_is_not_held(node):
    joined = node.join()
    node.lapse()
    node.renew()
    node.bus.answer()
    with pytest.raises(NotDone):
        value_of(joined)
    assert not node.claims.holds("n")


def test_who_comes_without_a_lease_is_refused_at_once(node):
    held(node)
    node.lapse()
    with pytest.raises(NotDone):
        value_of(node.join())
    assert node.claims._claims["n"].pending == 0


def test_who_comes_while_it_is_claimed_again_waits_for_that(node):
    held(node, shared=True)
    node.lapse()
    node.renew()
    joined = node.join(shared=True)
    assert not joined.called
    node.bus.answer({})
    value_of(joined)


def test_a_name_that_the_others_take_for_held_here_is_given_back_until_that_is_done(node):
    node.claims.found("n")
    assert node.bus.answer(False) == ("release", "n")
    node.clock.advance(RETRY)
    assert node.bus.answer(True) == ("release", "n")
    assert len(node.claims) == 0


def test_a_name_that_is_held_here_or_being_given_back_is_no_find(node):
    held(node)
    node.claims.found("n")
    assert node.claims.holds("n")
    assert node.bus.asked == []


@pytest.mark.parametrize(("unbroken_since", "new"), [(1, set()), (2, {"n"})])
def test_what_was_held_before_a_time_without_a_lease_is_claimed_again_as_a_new_name(node, unbroken_since, new):
    held(node)
    node.lapse()
    node.bus.unbroken_since = unbroken_since
    node.renew(2)
    assert node.bus.new == [new]
    node.bus.answer({})
    node.lapse()
    node.renew(3)
    node.clock.advance(PAUSE)
    assert node.bus.new == [new, set()]  # it is held under the lease 2


def test_a_name_that_was_only_asked_for_is_claimed_again_as_a_new_one(node):
    node.hold("held")
    node.bus.answer()
    _, granted = node.claims.join("asked", False)
    node.bus.answer(Unavailable("redis"))  # it may have been claimed at a server that went back since
    granted.addErrback(lambda _: None)
    node.needed.add("asked")
    node.claims.leased()
    node.clock.advance(RETRY)
    assert node.bus.asked[0][0] == "claim_all"
    assert node.bus.new == [{"asked"}]


def test_a_held_name_is_claimed_until_it_is_granted(node):
    node.hold()
    settled = node.claims.settled()
    node.bus.answer(NotDone("redis"))
    assert settled.called
    assert node.claims.settled() is None
    node.clock.advance(RETRY)
    assert node.bus.answer(Unavailable("redis")) == ("claim_all", {"n": True})
    node.clock.advance(RETRY)
    assert node.bus.answer({}) == ("claim_all", {"n": True})
    assert node.claims.holds("n")


def test_who_holds_a_name_is_told_when_it_was_granted(node):
    node.hold()
    node.hold()
    assert node.bus.answer() == ("claim", "n", True)
    assert node.granted == ["n"]
    assert node.bus.asked == []


def test_many_names_are_claimed_again_in_batches_one_at_a_time_those_first_that_are_not_shared(node):
    for number in range(2 * BATCH):
        held(node, f"s{number}", shared=True)
    held(node, "x")
    node.renew(1)
    batches = []
    while node.bus.asked:
        assert len(node.bus.asked) == 1
        batches.append(node.bus.answer({})[1])
        node.clock.advance(PAUSE)
    assert [len(batch) for batch in batches] == [BATCH, BATCH, 1]
    assert next(iter(batches[0])) == "x"
    assert node.renewed == 1
    assert all(node.claims.holds(f"s{number}") for number in range(2 * BATCH))


def test_batches_are_larger_where_each_takes_long_but_not_without_limit(node):
    for number in range(2 * BATCH + 2 * MAX_BATCH):
        held(node, f"s{number}", shared=True)
    node.renew(1)
    sizes = []
    for late in (2 * BATCH / RATE, 60.0, 0.0):
        sizes.append(len(node.bus.answer({})[1]))
        node.clock.advance(PAUSE + late)
    assert sizes[0] == BATCH
    assert BATCH < sizes[1] < MAX_BATCH
    assert sizes[2] == MAX_BATCH


def test_names_that_can_not_be_had_yet_do_not_delay_those_that_are_shared(node):
    for number in range(BATCH + 1):
        held(node, f"x{number}")
    held(node, "s", shared=True)
    node.renew(1)
    node.bus.answer({f"x{number}": "" for number in range(BATCH)})
    node.clock.advance(PAUSE)
    assert node.bus.answer({}) == ("claim_all", {"s": True})
    node.clock.advance(PAUSE)
    assert node.bus.asked == []
    node.clock.advance(RETRY)
    assert len(node.bus.answer({})[1]) == BATCH
    assert not node.renewed
    node.clock.advance(PAUSE)
    node.bus.answer({})
    node.clock.advance(PAUSE)
    assert node.renewed == 1


def test_nothing_is_left_to_be_called_after_a_stop(node):
    node.hold()
    node.bus.answer(NotDone("redis"))
    node.join("other").addErrback(lambda _: None)
    node.bus.answer(NotDone("lease", retry_after=1.0))
    node.claims.stop()
    assert node.clock.getDelayedCalls() == []


def test_every_transition_has_an_action(node):
    for action in {action for _, action in TRANSITIONS.values()} - {""}:
        assert callable(getattr(node.claims, "_" + action))
    assert {state for state, _ in TRANSITIONS} == set(State)
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_a_name_is_not_held_from_the_moment_on_at_which_the_lease_is_over(node):
    held(node)
    node.bus.lease = 0  # and nobody has been told
    assert not node.claims.holds("n")


def test_thousands_of_names_are_given_back_by_few_operations_one_at_a_time(node):
    names = [f"n{number}" for number in range(1000)]
    for name in names:
        held(node, name)
    for name in names:
        node.leave(name)
    operations = []
    while node.bus.asked:
        assert len(node.bus.asked) == 1
        operations.append(node.bus.answer(True))
    assert [name for _, *some in operations for name in some] == names
    assert len(operations) == 1 + ceil(999 / RELEASES)
    assert len(node.claims) == 0


def test_a_claim_does_not_wait_behind_the_names_that_others_give_back(node):
    for number in range(3):
        held(node, f"n{number}")
    for number in range(3):
        node.leave(f"n{number}")
    joined = node.join("other")
    assert [words[0] for words in node.bus.asked] == ["release", "claim"]
    again = node.join("n2")
    assert len(node.bus.asked) == 2  # it is still to be given back, which would be done after the claim
    node.bus.answer(True)
    node.bus.answer()
    value_of(joined)
    assert node.bus.answer(True) == ("release", "n1", "n2")
    assert node.bus.answer() == ("claim", "n2", False)
    value_of(again)
    assert node.claims.holds("n2")


def test_names_that_are_given_back_without_a_lease_are_free_at_once_however_many(node):
    names = [f"n{number}" for number in range(2000)]
    for name in names:
        held(node, name)
    node.bus.release = lambda *names: succeed(True)
    for name in names:
        node.leave(name)
    assert len(node.claims) == 0


def test_what_can_not_be_given_back_now_is_tried_again_later_and_not_at_once(node):
    node.bus.release = lambda name: node.bus.asked.append(("release", name)) or succeed(False)
    held(node)
    node.leave()
    node.clock.advance(RETRY)
    node.clock.pump([PAUSE] * 10)
    assert node.bus.asked == [("release", "n")] * 2
    assert len(node.clock.getDelayedCalls()) == 1


def test_the_table_of_the_documentation_has_every_state_in_its_order():
    page = (Path(__file__).parents[2] / "docs" / "architecture.rst").read_text()
    rows = re.findall(r"^``([A-Z]+)`` .* (FREE|CLAIMING|HELD|STALE|RELEASING) +[a-z]", page, re.M)
    assert {(State[before], State[after]) for before, after in rows} == {
        (before, after) for (before, _), (after, _) in TRANSITIONS.items()
    }


def test_many_names_are_looked_at_in_slices_and_none_is_held_before_it_is_claimed_again(node: Node) -> None:
    names = [f"n{number}" for number in range(2 * VISITS)]
    for name in names:
        node.hold(name)
        node.bus.answer()
    assert all(map(node.claims.holds, names))
    node.lapse()
    node.renew()
    assert len(node.claims._unvisited) == VISITS
    assert not any(map(node.claims.holds, names))
    asked = 0
    while node.bus.answers:
        asked += len(node.bus.answer({})[1])
        node.clock.advance(PAUSE)
    assert asked == len(names)
    assert all(map(node.claims.holds, names))
    assert node.renewed == 1


def test_a_name_that_was_held_before_is_given_back_although_nothing_was_looked_at_yet(node: Node) -> None:
    node.join()
    node.bus.answer()
    node.lapse()
    assert node.state is State.HELD
    node.bus.lease = 2
    node.leave()
    assert node.bus.answer(True) == ("release", "n")
    assert len(node.claims) == 0


def test_a_name_that_may_have_been_given_back_is_claimed_as_a_new_one(node: Node) -> None:
    node.join()
    node.bus.answer()
    node.leave()
    node.bus.answer(False)  # nobody knows; another node may have got it meanwhile
    node.join()
    node.clock.advance(RETRY)
    assert node.bus.asked == [("claim_all", {"n": False})]
    assert "n" in node.bus.new[-1]
