"""What ``txbroker work`` does: a command does the jobs of a work queue."""

from __future__ import annotations

import asyncio
import sys
from time import monotonic
from typing import Any

import attrs

from broker.app.client.output import emit_json, note
from broker.app.client.running import forever, on_terminate
from broker.app.client.shell import Command, input_of
from broker.app.client.target import Target
from broker.client import ClientError, Items, Job, NotFound
from broker.client.asyncio import Client


def work(target: Target, worker: Worker, *, prefetch: int, lease: float | None, count: int | None) -> None:
    """Let *worker* do jobs until SIGTERM.

    Args:
        target: the broker.
        worker: does them.
        prefetch: how many it has at once.
        lease: seconds that the broker gives for one, which are extended.
        count: after how many it ends; None: never.
    """
    forever(target, lambda client: _work(client, worker, prefetch, lease, count))


async def _work(client: Client, worker: Worker, prefetch: int, lease: float | None, count: int | None) -> None:
    jobs = client.consume(worker.queue, prefetch=prefetch, lease=lease)
    on_terminate(jobs.close)  # what nobody has begun goes back, and what is being done is finished
    left = iter(range(count)) if count is not None else None
    loops = [asyncio.create_task(_loop(worker, jobs, left)) for _ in range(worker.concurrency)]
    try:
        await asyncio.gather(*loops)
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


async def _loop(worker: Worker, jobs: Items[Job], left: Any) -> None:
    while left is None or next(left, None) is not None:
        try:
            job = await anext(jobs)
        except StopAsyncIteration:
            return
        await worker.do(job)


@attrs.frozen
class Worker:
    """Does jobs by a command.

    Attributes:
        queue: its name.
        command: that does a job.
        concurrency: how many at once.
        timeout: seconds that one may take; None: any time.
        retry_after: seconds after which one that has failed comes again; None: as the broker says.
        as_json: whether the command reads JSON in any case, and a line is printed for each job.
    """

    queue: str
    command: Command
    concurrency: int
    timeout: float | None
    retry_after: float | None
    as_json: bool

    async def do(self, job: Job) -> None:
        """Do *job*, and tell the broker what has become of it."""
        begun = monotonic()
        try:
            reason = await self._run(job)
        except asyncio.CancelledError:
            job.release()  # to be stopped is no failure
            raise
        outcome = "failed" if reason else "done"
        try:
            await (job.fail(reason, self.retry_after) if reason else job.done())
        except NotFound:
            outcome = "lost"  # somebody else has got it meanwhile
        except ClientError as error:
            outcome, reason = "unknown", str(error)
        self._report(job, outcome, reason, monotonic() - begun)

    async def _run(self, job: Job) -> str:
        """Return why *job* has failed, or "" if it is done."""
        environ = {"TXBROKER_QUEUE": self.queue, "TXBROKER_JOB_ID": job.id, "TXBROKER_JOB_DELIVERY": str(job.delivery)}
        # With --json, what is printed are the lines of the worker alone.
        output = sys.stderr.fileno() if self.as_json else None
        try:
            async with asyncio.timeout(self.timeout):
                result = await self.command.run(input_of(job.payload, strict=self.as_json), environ, output)
        except TimeoutError:
            return f"the command has taken more than {self.timeout:g} s"
        except OSError as error:
            return str(error)
        return result.reason if result.status else ""

    def _report(self, job: Job, outcome: str, reason: str, seconds: float) -> None:
        if self.as_json:
            told = {"queue": self.queue, "id": job.id, "delivery": job.delivery, "outcome": outcome}
            emit_json({**told, "seconds": round(seconds, 3), **({"reason": reason} if reason else {})})
        elif outcome != "done":
            note(f"job {job.id} of {self.queue}: {outcome}{': ' if reason else ''}{reason}")
