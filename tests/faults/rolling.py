"""Restarts nodes behind HAProxy one after the other, under shipped clients of all dialects: nothing is lost.

Usage: ``python -m tests.faults.rolling [--clients 200] [--restarts 2]``.  Events are posted through the balancer
meanwhile: each has to be acknowledged, and read once by each reader of its channel.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from tests.faults.clients import NOT_REACHED
from tests.faults.restart import ENVIRON, SECRET, Restart, Restarts, raise_file_limit
from tests.support.balancers import Balanced, BalancedNode
from tests.support.eventually import eventually
from tests.support.http_client import post
from tests.web.net.test_certificates import pem_files


class RollingRestarts(Restarts):
    """Two nodes that are restarted in turn.

    Attributes:
        refused: posts that were not acknowledged, with the reason.
    """

    def __init__(self, balanced: Balanced, clients: int) -> None:
        self.refused: list[str] = []
        self._balanced = balanced
        super().__init__(balanced, clients)  # type: ignore[arg-type]  # it asks it for nothing but its URL

    async def roll(self, restarts: int) -> Restart:
        """Restart the nodes in turn, so often in all, and return what that has done to the clients."""
        try:
            await self._all_back(await self._marked(time.time()))
            self.refused.clear()
            posting = Deferred.fromCoroutine(self._post_on())
            began = time.time()
            for _, node in zip(range(restarts), cycle(self._balanced.nodes), strict=False):
                await self._restart_node(node)
            self._posting = False
            await posting
            return await self._result(began)
        finally:
            await self.fleet.end()

    async def _restart_node(self, node: BalancedNode) -> None:
        """Stop *node*, start it, and return when the balancer sends it clients again."""
        name = node.environ["TXBROKER_NODE"]
        assert await node.stop() == 0
        await eventually(lambda: not self._balanced.is_up(name))
        await node.start()
        await eventually(lambda: self._balanced.is_up(name))

    async def _result(self, began: float) -> Restart:
        ended = time.time()
        await self._marked(ended)
        back = await self._all_back(began)
        missing = sorted(set(self.fleet.clients) - set(back))
        restart = Restart(signal.SIGTERM, ended - began, 0.0, back, missing, list(self.fleet.given_up))
        restart.closes = self.fleet.closes
        restart.acknowledged = sum(map(len, self.acknowledged.values()))
        await self._compare(restart)
        restart.troubles = [line for node in self._balanced.nodes for line in node.troubles()] + self.refused
        return restart

    async def _post(self, channel: str, name: str) -> bool:
        event = {"clientId": "writer", "secret": SECRET, "channel": channel, "from": "restart", "type": name}
        try:
            answer = await post(f"{self.daemon.url}/events/v1/events", event)
        except NOT_REACHED as error:
            self.refused.append(f"a post was not answered: {error}")
            return False
        if answer.status == 200:
            self.acknowledged[channel].append(answer.json()["id"])
        else:
            self.refused.append(f"a post was answered with {answer.status}: {answer.text[:200]}")
        return answer.status == 200


async def run(clients: int, restarts: int) -> Restart:
    """Restart two nodes behind HAProxy so often, with so many *clients*."""
    raise_file_limit()
    balanced = Balanced("haproxy", pem_files(Path(tempfile.mkdtemp(prefix="txbroker-"))), **ENVIRON)
    try:
        return await RollingRestarts(await balanced.start(), clients).roll(restarts)
    finally:
        await balanced.end()


async def main(_: Any, clients: int, restarts: int) -> None:
    """Print what the restarts have done; end with status 1 if they have broken a promise."""
    restart = await run(clients, restarts)
    print(restart)
    if restart.problems:
        raise SystemExit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--restarts", type=int, default=2)
    chosen = parser.parse_args(sys.argv[1:])
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, chosen.clients, chosen.restarts)))
