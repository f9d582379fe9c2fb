"""The contract of ``IJobStore``, sentence by sentence, for every store."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from broker.errors import NotFound, RateLimited, Unavailable
from broker.interfaces import IStore
from broker.jobs import Claimed, IJobStore, Job, QueueState, Worker
from broker.messages import Mail, Quota
from tests.stores.made_store import NOW, MadeStore, MakeStore
from tests.stores.store_contract import TEXTS

ANN = Worker("ann", "node", named=True)
BOB = Worker("bob", "node", named=True)
DELAYS = (1.0, 5.0)


def mail(body: bytes = b"1", ref: str = "", source: str = "me", time: float = NOW) -> Mail:
    return Mail("", ref, body, source, time)


def bodies(jobs: list[Job]) -> list[bytes]:
    return [job.body for job in jobs]


class JobContract(MadeStore):
    """What holds for the jobs of every store."""

    @pytest.fixture
    def jobs(self, store: IStore) -> IJobStore:
        return store.jobs

    async def fill(self, jobs: IJobStore, count: int, queue: str = "q", **options: Any) -> list[int]:
        added = [jobs.add(queue, mail(b"%d" % number), **options) for number in range(count)]
        return [number for number, _ in await gatherResults(added)]

    async def claim(self, jobs: IJobStore, count: int = 9, worker: Worker = ANN, queue: str = "q") -> list[Job]:
        return (await jobs.claim(queue, [(worker, 30.0)] * count)).jobs

    async def one(self, jobs: IJobStore, worker: Worker = ANN) -> Job:
        (job,) = await self.claim(jobs, 1, worker)
        return job

    async def gone(self, answer: Deferred[Any]) -> None:
        with pytest.raises(NotFound):
            await answer

    def test_it_provides_the_interface(self, jobs: IJobStore) -> None:
        verifyObject(IJobStore, jobs)

    @pytest_twisted.ensureDeferred
    async def test_what_is_asked_for_before_a_commit_comes_after_what_was_asked_for_until_then(
        self, jobs: IJobStore
    ) -> None:
        claims: list[Deferred[Claimed]] = []
        first = jobs.add("q", mail(b"1"))
        jobs.before_commit(lambda: claims.append(jobs.claim("q", [(ANN, 30.0)])))
        second = jobs.add("q", mail(b"2"))
        await gatherResults([first, second])
        assert bodies((await claims[0]).jobs) == [b"1"]

    @pytest_twisted.ensureDeferred
    async def test_nothing_asked_for_before_a_commit_needs_none(self, store: IStore, jobs: IJobStore) -> None:
        called: list[int] = []
        jobs.before_commit(lambda: called.append(1))
        await maybeDeferred(store.stopService)
        assert called == [1]

    @pytest_twisted.ensureDeferred
    async def test_a_stopped_store_takes_no_jobs(self, make: MakeStore) -> None:
        for call in (make().jobs.add("q", mail()), make().jobs.claim("q", [(ANN, 1.0)]), make().jobs.state("q")):
            with pytest.raises(Unavailable):
                await call

    # Adding and claiming.

    @pytest_twisted.ensureDeferred
    async def test_a_job_is_claimed_as_it_was_added(self, jobs: IJobStore) -> None:
        number, duplicate = await jobs.add("q", mail(b'{"a": 1}', "ref", "ann", 5.25))
        job = await self.one(jobs)
        assert not duplicate
        assert (job.number, job.queue, job.body, job.ref, job.source, job.time) == (
            number, "q", b'{"a": 1}', "ref", "ann", 5.25,
        )  # fmt: skip
        assert (job.deliveries, job.failures, job.reason, job.order) == (1, 0, "", "")

    @pytest_twisted.ensureDeferred
    async def test_any_texts_and_bytes_are_kept(self, jobs: IJobStore) -> None:
        body = b"".join(bytes((number,)) for number in range(256))
        for text in TEXTS:
            await jobs.add("q" + text, mail(body, text, text), order=text, key=text)
            (job,) = await self.claim(jobs, queue="q" + text)
            assert (job.body, job.ref, job.source, job.order, job.queue) == (body, text, text, text, "q" + text)

    @pytest_twisted.ensureDeferred
    async def test_jobs_are_claimed_once_and_the_first_first(self, jobs: IJobStore) -> None:
        await self.fill(jobs, 5)
        claims = [
            jobs.claim("q", [(worker, 30.0)] * count) for worker, count in ((ANN, 2), (BOB, 2), (ANN, 9), (BOB, 9))
        ]
        assert [bodies(each.jobs) for each in await gatherResults(claims)] == [[b"0", b"1"], [b"2", b"3"], [b"4"], []]

    @pytest_twisted.ensureDeferred
    async def test_numbers_rise_over_all_queues(self, jobs: IJobStore) -> None:
        numbers = [*await self.fill(jobs, 2), *await self.fill(jobs, 2, "other"), *await self.fill(jobs, 1)]
        assert numbers == sorted(set(numbers))
        assert bodies(await self.claim(jobs)) == [b"0", b"1", b"0"]

    @pytest_twisted.ensureDeferred
    async def test_a_claim_has_a_bound_of_bytes(self, jobs: IJobStore) -> None:
        for _ in range(4):
            await jobs.add("q", mail(b"x" * 100))
        assert len((await jobs.claim("q", [(ANN, 1.0)] * 9, max_bytes=150)).jobs) == 2
        assert len((await jobs.claim("q", [(ANN, 1.0)] * 9, max_bytes=1)).jobs) == 1

    @pytest_twisted.ensureDeferred
    async def test_chosen_jobs_are_claimed_if_they_are_ready(self, jobs: IJobStore) -> None:
        numbers = await self.fill(jobs, 4)
        await self.one(jobs)
        claimed = await jobs.claim(
            "q", [(ANN, 1.0), (ANN, 1.0), (BOB, 1.0)], numbers=[numbers[3], numbers[0], numbers[1]]
        )
        assert bodies(claimed.jobs) == [b"3", b"1"]
        assert (await jobs.claim("other", [(ANN, 1.0)], numbers=[numbers[2]])).jobs == []
        assert await jobs.finish(numbers[3], claimed.jobs[0].token, "ann")
        assert await jobs.finish(numbers[1], claimed.jobs[1].token, "bob")

    @pytest_twisted.ensureDeferred
    async def test_ready_jobs_can_be_looked_at(self, jobs: IJobStore) -> None:
        numbers = await self.fill(jobs, 4)
        await self.one(jobs)
        assert bodies(await jobs.ready("q", 0, 2, 0)) == [b"1", b"2"]
        assert bodies(await jobs.ready("q", numbers[2], 9, 0)) == [b"3"]
        assert bodies(await jobs.ready("q", 0, 9, 1)) == [b"1"]
        assert await jobs.ready("none", 0, 9, 0) == []

    @pytest_twisted.ensureDeferred
    async def test_a_removed_job_is_gone_and_can_be_restored(self, jobs: IJobStore) -> None:
        await self.fill(jobs, 2)
        (job,) = (await jobs.claim("q", [(ANN, 0.0)] * 1, remove=True)).jobs
        assert job.body == b"0"
        assert await jobs.state("q") == QueueState(1, oldest=NOW)
        await jobs.restore(job)
        again = await self.one(jobs)
        assert (again.number, again.body, again.deliveries) == (job.number, b"0", 1)
        assert again.token > job.token

    @pytest_twisted.ensureDeferred
    async def test_a_key_makes_one_job_of_many_for_its_time(self, jobs: IJobStore, clock: Clock) -> None:
        first = await jobs.add("q", mail(b"a"), key="k", key_seconds=10.0)
        again = await gatherResults([jobs.add("q", mail(b"b"), key="k", key_seconds=10.0) for _ in range(3)])
        other, _ = await jobs.add("other", mail(b"c"), key="k", key_seconds=10.0)
        assert again == [(first[0], True)] * 3
        assert other != first[0]
        job = await self.one(jobs)
        await jobs.finish(job.number, job.token, "ann")
        assert await jobs.add("q", mail(b"d"), key="k", key_seconds=10.0) == (first[0], True)
        clock.advance(10.0)
        assert (await jobs.add("q", mail(b"e"), key="k", key_seconds=10.0))[1] is False
        assert bodies(await self.claim(jobs)) == [b"e"]

    @pytest_twisted.ensureDeferred
    async def test_a_queue_has_no_more_jobs_than_it_may(self, jobs: IJobStore) -> None:
        await self.fill(jobs, 2, limit=2)
        with pytest.raises(RateLimited):
            await jobs.add("q", mail(), limit=2)
        await self.one(jobs)
        with pytest.raises(RateLimited):
            await jobs.add("q", mail(), limit=2)
        await jobs.claim("q", [(ANN, 0.0)] * 1, remove=True)
        await jobs.add("q", mail(), limit=2)

    @pytest_twisted.ensureDeferred
    async def test_new_queues_count_until_they_are_swept_empty(self, jobs: IJobStore) -> None:
        quota = Quota("queues", "ann", 1)
        await jobs.add("q", mail(), quota=quota)
        await jobs.add("q", mail(), quota=quota)
        with pytest.raises(RateLimited):
            await jobs.add("other", mail(), quota=quota)
        await jobs.claim("q", [(ANN, 0.0)] * 9, remove=True)
        await jobs.sweep(0.0)
        await jobs.add("other", mail(), quota=quota)

    # Time.

    @pytest_twisted.ensureDeferred
    async def test_a_delayed_job_waits_for_its_time(self, jobs: IJobStore, clock: Clock) -> None:
        await jobs.add("q", mail(b"late"), delay=10.0)
        await jobs.add("q", mail(b"now"))
        claimed = await jobs.claim("q", [(ANN, 30.0)] * 9)
        assert (bodies(claimed.jobs), claimed.due) == ([b"now"], 10.0)
        clock.advance(9.0)
        assert (await jobs.claim("q", [(ANN, 30.0)] * 9)).due == 1.0
        assert await jobs.state("q") == QueueState(0, 1, 1)
        clock.advance(1.0)
        assert await jobs.state("q") == QueueState(1, 0, 1, oldest=NOW)
        claimed = await jobs.claim("q", [(ANN, 30.0)] * 9)
        assert (bodies(claimed.jobs), claimed.due) == ([b"late"], None)

    @pytest_twisted.ensureDeferred
    async def test_a_job_ends_by_its_ttl_unless_it_is_in_flight(self, jobs: IJobStore, clock: Clock) -> None:
        for body in (b"claimed", b"waits"):
            await jobs.add("q", mail(body), ttl=10.0)
        job = await self.one(jobs)
        clock.advance(10.0)
        assert await jobs.state("q") == QueueState(0, 0, 1)
        assert await self.claim(jobs) == []
        assert (await jobs.finish(job.number, job.token, "ann")).queue == "q"

    @pytest_twisted.ensureDeferred
    async def test_what_is_too_old_is_swept(self, jobs: IJobStore, clock: Clock) -> None:
        await self.fill(jobs, 2)
        job = await self.one(jobs)
        await jobs.add("ended", mail(), ttl=5.0)
        clock.advance(10.0)
        await jobs.add("q", mail(b"young"))
        assert await jobs.sweep(10.5) == 1
        clock.advance(1.0)
        assert await jobs.sweep(10.5) == 1
        assert await jobs.totals() == QueueState(1, 0, 1, oldest=NOW + 10.0)
        await jobs.fail(job.number, job.token, "ann", reason="", delays=())
        clock.advance(10.0)
        assert await jobs.sweep(10.5) == 1
        clock.advance(1.0)
        assert await jobs.sweep(10.5) == 1
        assert await jobs.totals() == QueueState()

    @pytest_twisted.ensureDeferred
    async def test_a_job_that_was_delayed_or_comes_again_is_as_old_as_it_has_been_ready(
        self, jobs: IJobStore, clock: Clock
    ) -> None:
        await jobs.add("q", mail(b"late"), delay=20.0)
        clock.advance(15.0)
        assert await jobs.sweep(10.5) == 0
        clock.advance(5.0)
        assert await jobs.sweep(10.5) == 0
        clock.advance(10.0)
        job = await self.one(jobs)
        await jobs.release(job.number, job.token, "node", max_deliveries=20)
        assert await jobs.sweep(10.5) == 0
        job = await self.one(jobs)
        await jobs.fail(job.number, job.token, "ann", reason="", delays=(20.0,))
        clock.advance(20.0)
        assert await jobs.sweep(10.5) == 0
        clock.advance(11.0)
        assert await jobs.sweep(10.5) == 1

    @pytest_twisted.ensureDeferred
    async def test_all_jobs_whose_time_has_come_count_as_ready(self, jobs: IJobStore, clock: Clock) -> None:
        await gatherResults([jobs.add("q", mail(), delay=1.0) for _ in range(250)])
        clock.advance(1.0)
        assert await jobs.totals() == QueueState(250, oldest=NOW)
        assert await jobs.state("q") == QueueState(250, oldest=NOW)

    @pytest_twisted.ensureDeferred
    async def test_a_delayed_job_whose_time_has_come_is_before_a_later_one_of_its_order_key(
        self, jobs: IJobStore, clock: Clock
    ) -> None:
        await jobs.add("q", mail(b"first"), order="k", delay=1.0)
        clock.advance(1.0)
        await jobs.add("q", mail(b"second"), order="k")
        assert bodies(await self.claim(jobs)) == [b"first"]

    # What becomes of a delivery.

    @pytest_twisted.ensureDeferred
    async def test_a_finished_job_is_gone(self, jobs: IJobStore) -> None:
        await self.fill(jobs, 1)
        job = await self.one(jobs)
        assert await jobs.find(job.number) == "q"
        assert (await jobs.finish(job.number, job.token, "ann")).ready is False
        assert await jobs.find(job.number) is None
        await self.gone(jobs.finish(job.number, job.token, "ann"))
        assert await jobs.state("q") == QueueState()

    @pytest_twisted.ensureDeferred
    async def test_only_who_has_a_job_can_settle_it(self, jobs: IJobStore) -> None:
        await self.fill(jobs, 1)
        job = await self.one(jobs)
        for number, token, worker in ((job.number, job.token, BOB), (job.number, 7, ANN), (job.number + 1, 1, ANN)):
            await self.gone(jobs.finish(number, token, worker.client))
            await self.gone(jobs.fail(number, token, worker.client, reason="", delays=DELAYS))
            await self.gone(jobs.extend(number, token, worker, 9.0))
        await self.gone(jobs.release(job.number, 7, "node", max_deliveries=20))
        assert (await jobs.state("q")).in_flight == 1

    @pytest_twisted.ensureDeferred
    async def test_a_delivery_of_another_epoch_is_none_of_this_one(self, store: IStore, jobs: IJobStore) -> None:
        await self.fill(jobs, 1)
        job = await self.one(jobs)
        for epoch in ("", "0123456789abcdef"):
            await self.gone(jobs.finish(job.number, job.token, "ann", epoch=epoch))
            await self.gone(jobs.fail(job.number, job.token, "ann", reason="", delays=DELAYS, epoch=epoch))
            await self.gone(jobs.extend(job.number, job.token, ANN, 9.0, epoch=epoch))
        assert await jobs.extend(job.number, job.token, ANN, 9.0, epoch=store.epoch)
        assert await jobs.finish(job.number, job.token, "ann", epoch=store.epoch)

    @pytest_twisted.ensureDeferred
    async def test_a_failed_job_comes_again_later_and_later_until_it_is_dead(
        self, jobs: IJobStore, clock: Clock
    ) -> None:
        await self.fill(jobs, 1)
        for number, delay in enumerate(DELAYS, 1):
            job = await self.one(jobs)
            assert (job.deliveries, job.failures) == (number, number - 1)
            settled = await jobs.fail(job.number, job.token, "ann", reason=f"r{number}", delays=DELAYS)
            assert (settled.queue, settled.dead, settled.delay) == ("q", False, delay)
            await self.gone(jobs.finish(job.number, job.token, "ann"))
            clock.advance(delay - 0.5)
            assert await self.claim(jobs) == []
            clock.advance(0.5)
        job = await self.one(jobs, BOB)
        assert (await jobs.fail(job.number, job.token, "bob", reason="last", delays=DELAYS)).dead
        assert await jobs.state("q") == QueueState(dead=1)
        (dead,) = await jobs.dead("q", 0, 9, 0)
        assert (dead.number, dead.deliveries, dead.failures, dead.reason, dead.worker, dead.until) == (
            job.number, 3, 3, "last", "bob", clock.seconds(),
        )  # fmt: skip

    @pytest_twisted.ensureDeferred
    async def test_a_failed_job_may_be_ready_at_once(self, jobs: IJobStore) -> None:
        await self.fill(jobs, 2)
        job = await self.one(jobs)
        assert (await jobs.fail(job.number, job.token, "ann", reason="", delays=(0.0,))).ready
        assert bodies(await self.claim(jobs)) == [b"0", b"1"]

    @pytest_twisted.ensureDeferred
    async def test_who_had_the_lease_may_finish_until_another_has_the_job(self, jobs: IJobStore, clock: Clock) -> None:
        await self.fill(jobs, 3)
        first, second, third = await self.claim(jobs)
        for job in (first, second, third):
            await jobs.fail(job.number, job.token, "ann", reason="lease", delays=DELAYS, expired="node")
            await self.gone(jobs.fail(job.number, job.token, "ann", reason="", delays=DELAYS, expired="node"))
        assert (await jobs.finish(first.number, first.token, "ann")).queue == "q"
        assert not (await jobs.fail(third.number, third.token, "ann", reason="mine", delays=DELAYS)).dead
        clock.advance(DELAYS[0])
        again = await self.claim(jobs, worker=BOB)
        assert [(job.number, job.failures, job.reason) for job in again] == [
            (second.number, 1, "lease"), (third.number, 1, "mine"),
        ]  # fmt: skip
        await self.gone(jobs.finish(second.number, second.token, "ann"))

    @pytest_twisted.ensureDeferred
    async def test_a_lease_is_extended_also_after_its_end(self, jobs: IJobStore, clock: Clock) -> None:
        await self.fill(jobs, 1)
        job = await self.one(jobs)
        assert (await jobs.extend(job.number, job.token, ANN, 60.0)).queue == "q"
        await jobs.fail(job.number, job.token, "ann", reason="", delays=DELAYS, expired="node")
        await jobs.extend(job.number, job.token, Worker("ann", "another", named=True), 60.0)
        clock.advance(DELAYS[0])
        assert await self.claim(jobs) == []
        ((held, named),) = await jobs.adopt("another", "heir", 0, 9)
        assert (held.number, held.token, held.worker, held.until, named) == (
            job.number, job.token, "ann", NOW + 60.0, True,
        )  # fmt: skip

    @pytest_twisted.ensureDeferred
    async def test_a_released_job_is_the_first_again(self, jobs: IJobStore) -> None:
        await self.fill(jobs, 3)
        first, second = await self.claim(jobs, 2)
        assert (await jobs.release(second.number, second.token, "node", max_deliveries=3)).ready
        assert (await jobs.release(first.number, first.token, "node", max_deliveries=3, delivered=False)).ready
        await self.gone(jobs.release(first.number, first.token, "node", max_deliveries=3))
        found = await self.claim(jobs, worker=BOB)
        assert [(job.body, job.deliveries, job.failures) for job in found] == [(b"0", 1, 0), (b"1", 2, 0), (b"2", 1, 0)]
        assert found[0].token > first.token
        assert (await jobs.release(found[1].number, found[1].token, "node", max_deliveries=2)).dead
        (dead,) = await jobs.dead("q", 0, 9, 0)
        assert "2 times" in dead.reason

    # Order keys.

    @pytest_twisted.ensureDeferred
    async def test_jobs_of_one_order_key_go_one_at_a_time(self, jobs: IJobStore) -> None:
        await self.fill(jobs, 3, order="k")
        await self.fill(jobs, 1, order="other")
        await self.fill(jobs, 1)
        found = await self.claim(jobs)
        assert bodies(found) == [b"0", b"0", b"0"]
        assert await self.claim(jobs) == []
        assert (await jobs.state("q")).ready == 2
        for expected in (b"1", b"2"):
            assert (await jobs.finish(found[0].number, found[0].token, "ann")).ready
            found = await self.claim(jobs)
            assert bodies(found) == [expected]
        assert not (await jobs.finish(found[0].number, found[0].token, "ann")).ready

    @pytest_twisted.ensureDeferred
    async def test_a_failed_job_holds_its_order_key_and_a_dead_one_does_not(
        self, jobs: IJobStore, clock: Clock
    ) -> None:
        await self.fill(jobs, 2, order="k")
        for _ in range(2):
            job = await self.one(jobs)
            assert job.body == b"0"
            await jobs.fail(job.number, job.token, "ann", reason="", delays=(1.0, 1.0))
            assert await self.claim(jobs) == []
            clock.advance(1.0)
        job = await self.one(jobs)
        assert job.body == b"0"
        settled = await jobs.fail(job.number, job.token, "ann", reason="", delays=(1.0, 1.0))
        assert (settled.dead, settled.ready) == (True, True)
        assert bodies(await self.claim(jobs)) == [b"1"]
        assert await jobs.retry("q", [job.number], 9) == 1
        assert await self.claim(jobs) == []

    @pytest_twisted.ensureDeferred
    async def test_a_released_job_keeps_its_order_key(self, jobs: IJobStore) -> None:
        await self.fill(jobs, 2, order="k")
        job = await self.one(jobs)
        await jobs.release(job.number, job.token, "node", max_deliveries=9)
        assert bodies(await self.claim(jobs)) == [b"0"]

    @pytest_twisted.ensureDeferred
    async def test_a_delayed_job_holds_no_order_key_until_its_time_has_come(
        self, jobs: IJobStore, clock: Clock
    ) -> None:
        await jobs.add("q", mail(b"late"), order="k", delay=5.0)
        await jobs.add("q", mail(b"now"), order="k")
        job = await self.one(jobs)
        assert job.body == b"now"
        clock.advance(5.0)
        assert await self.claim(jobs) == []
        await jobs.finish(job.number, job.token, "ann")
        assert bodies(await self.claim(jobs)) == [b"late"]

    @pytest_twisted.ensureDeferred
    async def test_what_ends_or_is_removed_lets_the_next_of_its_key_go(self, jobs: IJobStore, clock: Clock) -> None:
        await jobs.add("q", mail(b"ends"), order="k", ttl=5.0)
        await self.fill(jobs, 2, order="k")
        clock.advance(5.0)
        removed = await jobs.claim("q", [(ANN, 0.0)] * 9, remove=True)
        assert bodies(removed.jobs) == [b"0"]
        assert bodies(await self.claim(jobs)) == [b"1"]

    # Nodes.

    @pytest_twisted.ensureDeferred
    async def test_the_jobs_of_a_lost_node_are_adopted_once(self, jobs: IJobStore) -> None:
        await self.fill(jobs, 5)
        named = await self.claim(jobs, 2, Worker("ann", "lost", named=True))
        await self.claim(jobs, 1, Worker("session", "lost"))
        await self.claim(jobs, 1, Worker("bob", "other", named=True))
        assert sorted(await jobs.nodes()) == ["lost", "other"]
        found = await gatherResults([jobs.adopt("lost", "heir", 0, 2), jobs.adopt("lost", "heir", 0, 9)])
        adopted = sorted((job.number, job.token, job.queue, job.worker, has) for each in found for job, has in each)
        assert [each[3:] for each in adopted] == [("ann", True), ("ann", True), ("session", False)]
        assert adopted[0][:3] == (named[0].number, named[0].token, "q")
        assert await jobs.adopt("lost", "heir", 0, 9) == []
        await self.gone(jobs.release(named[0].number, named[0].token, "lost", max_deliveries=9))
        await self.gone(jobs.fail(named[0].number, named[0].token, "ann", reason="", delays=(), expired="lost"))
        assert sorted(await jobs.nodes()) == ["heir", "other"]
        for job in named:
            await jobs.finish(job.number, job.token, "ann")
        ((left, _),) = await jobs.adopt("heir", "heir", 0, 9)
        assert await jobs.adopt("heir", "next", left.number, 9) == []
        assert len(await jobs.adopt("heir", "next", left.number - 1, 9)) == 1

    # What is dead.

    @pytest_twisted.ensureDeferred
    async def test_dead_jobs_are_listed_retried_and_dropped(self, jobs: IJobStore) -> None:
        numbers = await self.fill(jobs, 5)
        for job in await self.claim(jobs):
            await jobs.fail(job.number, job.token, "ann", reason="no", delays=())
        assert bodies(await jobs.dead("q", 0, 2, 0)) == [b"0", b"1"]
        assert bodies(await jobs.dead("q", numbers[2], 9, 0)) == [b"3", b"4"]
        assert bodies(await jobs.dead("q", 0, 9, 1)) == [b"0"]
        assert await jobs.dead("none", 0, 9, 0) == []
        assert await jobs.retry("q", [numbers[1], numbers[1], 99999], 9) == 1
        assert await jobs.drop("q", [numbers[0], numbers[1]], 9) == 1
        assert await jobs.drop("other", [numbers[2]], 9) == 0
        (job,) = await self.claim(jobs)
        assert (job.number, job.deliveries, job.failures) == (numbers[1], 1, 0)
        await self.gone(jobs.finish(job.number, 1, "ann"))
        assert await jobs.retry("q", None, 2) == 2
        assert await jobs.drop("q", None, 9) == 1
        assert await jobs.state("q") == QueueState(2, 0, 1, oldest=NOW)

    @pytest_twisted.ensureDeferred
    async def test_the_totals_are_those_of_all_queues(self, jobs: IJobStore, clock: Clock) -> None:
        await self.fill(jobs, 3)
        clock.advance(1.0)
        await self.fill(jobs, 2, "other", delay=5.0)
        await self.fill(jobs, 2, "third")
        await self.one(jobs)
        assert await jobs.totals() == QueueState(4, 2, 1, 0, NOW)

    @pytest_twisted.ensureDeferred
    async def test_queues_are_listed_by_their_bytes_page_by_page(self, jobs: IJobStore) -> None:
        for name in ("b", "a", "\U0001f600", "ä", "\ue000", "a.b"):
            await self.fill(jobs, 1, name)
        assert await jobs.queues("", 3) == ["a", "a.b", "b"]
        assert await jobs.queues("b", 9) == ["ä", "\ue000", "\U0001f600"]


class DurableJobContract(JobContract):
    """What holds for the jobs of a store that keeps what it was given."""

    @pytest_twisted.ensureDeferred
    async def test_all_is_there_after_closing_and_opening(self, make: MakeStore, clock: Clock) -> None:
        store = make()
        store.startService()
        await store.head("")
        numbers = await self.fill(store.jobs, 3)
        await self.fill(store.jobs, 2, order="k", key="one", key_seconds=60.0)
        job, dead = await self.claim(store.jobs, 2)
        await store.jobs.fail(dead.number, dead.token, "ann", reason="no", delays=())
        await maybeDeferred(store.stopService)
        again = make()
        again.startService()
        await again.head("")
        assert await again.jobs.state("q") == QueueState(2, 0, 1, 1, NOW)
        assert (await again.jobs.add("q", mail(), key="one", key_seconds=60.0))[1]
        assert (await again.jobs.finish(job.number, job.token, "ann")).queue == "q"
        (number,) = await self.fill(again.jobs, 1)
        assert number > numbers[-1]
        await maybeDeferred(again.stopService)
