"""Jobs for workers without a session."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock

from broker.core.job_claims import claim_jobs, end_claims
from broker.core.job_filters import job_filter
from broker.core.jobs import CLAIM_BYTES, Jobs
from broker.errors import NotDone, Unavailable
from broker.interfaces import IStore
from broker.jobs import Worker
from broker.messages import Delivery, Mail
from broker.stores import open_store
from broker.testing import value_of

NOW = 1_000_000.0


async def nobody_comes_back(client: str, session: str) -> bool:
    return False


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(NOW)
    return clock


@pytest.fixture
def store(clock: Clock) -> IStore:
    store: IStore = open_store("memory:", clock=clock)
    store.startService()
    return store


def jobs_of(store: IStore, clock: Clock, node: str = "node") -> Jobs:
    return Jobs(store, clock, lambda: node, nobody_comes_back)


@pytest.fixture
def jobs(store: IStore, clock: Clock) -> Jobs:
    return jobs_of(store, clock)


def add(jobs: Jobs, *bodies: bytes) -> None:
    for body in bodies:
        value_of(jobs.add(Mail("q", "", body, "ann", NOW)))


def claim(jobs: Jobs, clock: Clock, limit: int = 1, **options: Any) -> Deferred[list[Delivery]]:
    worker = Worker("key:ann", "node", named=True)
    return Deferred.fromCoroutine(claim_jobs(jobs, clock, "q", worker, limit, **{"lease": 30.0, **options}))


def bodies(claimed: Deferred[list[Delivery]]) -> list[bytes]:
    return [job.body for job in value_of(claimed)]


def test_what_is_ready_is_claimed_at_once(jobs: Jobs, clock: Clock) -> None:
    add(jobs, b"1", b"2", b"3")
    assert bodies(claim(jobs, clock, 2)) == [b"1", b"2"]
    assert bodies(claim(jobs, clock, 2)) == [b"3"]
    assert bodies(claim(jobs, clock)) == []
    assert len(jobs) == 0


def test_those_that_come_together_are_claimed_together(jobs: Jobs, clock: Clock) -> None:
    claimed = claim(jobs, clock, 5, wait=10.0)
    add(jobs, b"1", b"2")
    clock.advance(0)
    assert bodies(claimed) == [b"1", b"2"]


def test_a_filter_is_looked_at_before_it_is_said_that_there_are_none(jobs: Jobs, clock: Clock) -> None:
    add(jobs, *[b'{"n":%d}' % number for number in range(250)])
    assert bodies(claim(jobs, clock, matches=job_filter({"n": 240}))) == [b'{"n":240}']


@pytest.mark.parametrize("limit", [1, 5])
def test_a_claim_that_is_cancelled_leaves_the_job(jobs: Jobs, clock: Clock, limit: int) -> None:
    claimed = claim(jobs, clock, limit, wait=10.0)
    add(jobs, b"1")
    claimed.cancel()
    claimed.addErrback(lambda failure: failure.trap(CancelledError))
    (job,) = value_of(claim(jobs, clock))
    assert (job.body, job.delivery) == (b"1", 1)


def test_a_lease_that_ends_is_a_failure(jobs: Jobs, clock: Clock) -> None:
    add(jobs, b"1")
    value_of(claim(jobs, clock, lease=10.0))
    clock.pump([1.0] * 12)
    (job,) = value_of(claim(jobs, clock))
    assert job.delivery == 2


def test_a_node_that_takes_over_lets_the_lease_go_on(store: IStore, jobs: Jobs, clock: Clock) -> None:
    add(jobs, b"1")
    (job,) = value_of(claim(jobs, clock))
    jobs.stop()
    other = jobs_of(store, clock, "other")
    value_of(other.recover())
    clock.pump([1.0] * 20)  # more than the grace of those who lose a session
    assert bodies(claim(other, clock)) == []
    value_of(other.leases.finish(job.id, Worker("key:ann", "other", named=True)))
    assert value_of(store.jobs.state("q")).in_flight == 0


def test_after_a_takeover_a_lease_ends_too(store: IStore, jobs: Jobs, clock: Clock) -> None:
    add(jobs, b"1")
    value_of(claim(jobs, clock))
    jobs.stop()
    other = jobs_of(store, clock, "other")
    value_of(other.recover())
    clock.pump([1.0] * 33)
    (job,) = value_of(claim(other, clock))
    assert job.delivery == 2


class SlowJobs:
    """Jobs of a store that answers claims when ``answer`` is called, or with ``error``."""

    def __init__(self, jobs: Any) -> None:
        self._jobs = jobs
        self.waiting: list[Any] = []
        self.error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jobs, name)

    def claim(self, *words: Any, **named: Any) -> Deferred[Any]:
        if self.error is not None:
            return fail(self.error)
        answer: Deferred[Any] = Deferred()
        self.waiting.append(lambda: self._jobs.claim(*words, **named).chainDeferred(answer))
        return answer

    def answer(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()


@pytest.fixture
def slow(store: IStore, jobs: Jobs) -> SlowJobs:
    store.jobs = slow = SlowJobs(store.jobs)  # type: ignore[assignment]
    return slow


@pytest.mark.parametrize("options", [{}, {"matches": job_filter({})}])
def test_a_claim_ends_when_the_store_has_said_that_there_are_none(
    jobs: Jobs, slow: SlowJobs, clock: Clock, options: Any
) -> None:
    claimed = claim(jobs, clock, **options)
    clock.advance(1.0)
    slow.answer()
    clock.advance(0)
    assert bodies(claimed) == []
    assert clock.getDelayedCalls() == []


def test_a_claim_that_is_cancelled_before_the_store_has_answered_leaves_the_job(
    store: IStore, jobs: Jobs, slow: SlowJobs, clock: Clock
) -> None:
    add(jobs, b"1")
    claimed = claim(jobs, clock, wait=10.0)
    claimed.cancel()
    claimed.addErrback(lambda failure: failure.trap(CancelledError))
    slow.answer()
    assert value_of(store.jobs.state("q")).ready == 1
    again = claim(jobs, clock)
    slow.answer()
    clock.advance(0)
    assert value_of(again)[0].delivery == 1


@pytest.mark.parametrize("wait", [0.0, 5.0])
def test_a_claim_fails_while_the_store_is_away(jobs: Jobs, slow: SlowJobs, clock: Clock, wait: float) -> None:
    slow.error = NotDone("store", message="It is away.")
    claimed = claim(jobs, clock, wait=wait)
    clock.pump([0.5] * 11)
    error = claimed.addErrback(lambda failure: failure.value).result
    assert isinstance(error, Unavailable)
    assert error.message == "It is away."


def test_a_claim_gets_what_is_there_when_the_store_is_back(jobs: Jobs, slow: SlowJobs, clock: Clock) -> None:
    add(jobs, b"1")
    slow.error = NotDone("store")
    value_of(claim(jobs, clock).addErrback(lambda failure: failure.trap(NotDone)))
    slow.error = None
    claimed = claim(jobs, clock)
    slow.answer()
    clock.advance(0)
    assert bodies(claimed) == [b"1"]


def test_a_claim_is_given_no_more_than_some_bytes(jobs: Jobs, clock: Clock) -> None:
    body = b'"%b"' % (b"x" * (CLAIM_BYTES // 2))
    add(jobs, *[body] * 5)
    assert len(bodies(claim(jobs, clock, 100))) == 2
    assert len(bodies(claim(jobs, clock, 1))) == 1


def test_bytes_are_counted_until_the_claim_ends(jobs: Jobs, clock: Clock) -> None:
    held: list[int] = []
    claimed = claim(jobs, clock, 5, wait=10.0, hold=held.append)
    add(jobs, b"1" * 1000)
    assert sum(held) > 1000
    clock.advance(0)
    assert len(bodies(claimed)) == 1
    assert sum(held) == 0


def test_what_was_claimed_is_not_kept_with_its_lease(jobs: Jobs, clock: Clock) -> None:
    add(jobs, b"1")
    assert bodies(claim(jobs, clock)) == [b"1"]
    assert [lease.consumer for lease in jobs.leases._leases.values()] == [None]
    assert jobs.leases.unattended("key:ann") == jobs.leases.unattended() == 1
    clock.pump([1.0] * 31)
    assert jobs.leases.unattended("key:ann") == jobs.leases.unattended() == 0


def test_claims_that_wait_can_be_ended_with_nothing(jobs: Jobs, clock: Clock) -> None:
    waiting = claim(jobs, clock, wait=60.0)
    end_claims(jobs)
    assert value_of(waiting) == []
    assert (jobs.claimants, clock.getDelayedCalls()) == ({}, [])
    end_claims(jobs)
