"""A daemon of several worker processes on a real Redis."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from twisted.internet import reactor

from tests.support.daemon import WITH_METRICS, Daemon
from tests.support.eventually import STEP, TIMEOUT, pause
from tests.support.http_client import get, post
from tests.support.redis_server import RedisServer

WORKERS = 2


class WorkersDaemon(Daemon):
    """``twistd -n broker`` with two workers; what it stores begins with *prefix*."""

    def __init__(self, directory: Path, redis: RedisServer, prefix: str, **environ: str) -> None:
        shared = {
            "TXBROKER_STORE": f"redis+unix://{redis.socket}",
            "TXBROKER_REDIS_PREFIX": prefix,
            "TXBROKER_PROCESSES": str(WORKERS),
            "TXBROKER_NODE": "many",
            "TXBROKER_DRAIN_SECONDS": "2",
        }
        super().__init__(directory, **{**shared, **WITH_METRICS, **environ})

    async def start(self, timeout: float = TIMEOUT) -> Self:
        """Start it and wait until all workers have reached Redis."""
        await super().start(timeout)
        await self.until_ready()
        return self

    async def workers(self) -> list[dict[str, Any]]:
        """Return what ``/about`` says of the workers."""
        found: list[dict[str, Any]] = (await get(self.admin_url + "/about")).json()["workers"]
        return found

    async def pids(self) -> list[int]:
        """Return the process ids of the workers, in their order."""
        return [worker["pid"] for worker in await self.workers()]

    async def until_replaced(self, number: int, pid: int) -> list[dict[str, Any]]:
        """Return what the workers are when worker *number* is another process than *pid*, and all serve clients."""
        end = reactor.seconds() + TIMEOUT
        while True:
            workers = await self.workers()
            if workers[number - 1]["pid"] != pid and all(worker["state"] == "ready" for worker in workers):
                return workers
            assert reactor.seconds() < end, workers
            await pause(STEP)

    async def asked(self, name: str, **query: object) -> Any:
        """Return what the admin API answers."""
        words = "&".join(f"{key}={value}" for key, value in query.items())
        return (await get(f"{self.admin_url}/admin/api/{name}?{words}")).json()

    async def listed(self, name: str, **query: object) -> Any:
        """Return a page of a list for which all workers have answered: one that is busy may have been too late."""
        while not (page := await self.asked(name, **query))["complete"]:
            pass
        return page

    async def do(self, name: str, content: object, **query: object) -> Any:
        """Let the admin API do something."""
        words = "&".join(f"{key}={value}" for key, value in query.items())
        return await post(f"{self.admin_url}/admin/api/{name}?{words}", content)

    async def metric(self, sample: str) -> float:
        """Return the value of a sample, labels included."""
        lines = (await get(self.admin_url + "/metrics")).text.split("\n")
        return next(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == sample)


async def until_gone(pids: Sequence[int]) -> None:
    """Return when no process has one of these ids any more."""
    end = reactor.seconds() + TIMEOUT
    while left := [pid for pid in pids if is_running(pid)]:
        assert reactor.seconds() < end, left
        await pause(STEP)


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def children_of(pid: int) -> list[int]:
    """Return the ids of the processes that *pid* has started."""
    return (
        [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()] if pid else [os.getpid()]
    )
