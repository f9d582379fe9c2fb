"""``kill -9`` at any moment: what was acknowledged is there, without a hole, and cursors are kept."""

from __future__ import annotations

import random
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from tests.support.daemon import Daemon
from tests.support.http_client import get, post

DAEMONS = 2  # that are killed side by side, each on a store of its own
WRITERS = 4


@attrs.define
class Witness:
    """Remembers what one daemon has acknowledged, over all its lives."""

    daemon: Daemon
    chance: random.Random
    acknowledged: dict[int, Any] = attrs.field(factory=dict)
    cursor: int = 0
    killed: bool = False

    @property
    def events(self) -> str:
        return f"{self.daemon.url}/events/v1/events"

    async def live(self, round_: int) -> None:
        """Let writers write and a reader acknowledge, until the daemon is killed in the midst of it."""
        self.killed = False
        working = [Deferred.fromCoroutine(self.write(f"{round_}-{writer}")) for writer in range(WRITERS)]
        goal = len(self.acknowledged) + self.chance.randint(WRITERS, 4 * WRITERS)
        working.append(Deferred.fromCoroutine(self.read(goal)))
        await gatherResults(working)

    async def write(self, writer: str) -> None:
        number = 0
        while not self.killed:
            data = {"writer": writer, "n": number}
            event = {"clientId": "w", "channel": "ch", "from": "f", "type": "t", "data": data}
            try:
                answer = await post(self.events, event)
            except Exception:
                assert self.killed
                return
            assert answer.status == 200
            assert answer.json()["id"] not in self.acknowledged
            self.acknowledged[answer.json()["id"]] = data
            number += 1

    async def read(self, goal: int) -> None:
        """Follow with a cursor, and kill the daemon when *goal* events were acknowledged."""
        while len(self.acknowledged) < goal:
            after = max(self.acknowledged, default=1) - 1
            answer = await get(f"{self.events}?clientId=reader&channel=ch&after={after}")
            assert answer.status == 200
            self.cursor = after
        self.killed = True
        await self.daemon.kill()

    async def check(self) -> None:
        """Compare what is there with what was acknowledged."""
        answer = await get(f"{self.events}?clientId=reader&channel=ch&limit=1000")
        assert answer.json()[0]["id"] == self.cursor + 1
        found: list[Any] = []
        while len(page := (await self.page(len(found))).json()) > 0:
            found += page
        assert [event["id"] for event in found] == list(range(1, len(found) + 1))
        assert max(self.acknowledged) <= len(found)
        assert {id: found[id - 1]["data"] for id in self.acknowledged} == self.acknowledged
        # What was stored without an answer is neither lost nor doubled either.
        written = [(event["data"]["writer"], event["data"]["n"]) for event in found]
        assert len(set(written)) == len(written)

    def page(self, after: int) -> Deferred[Any]:
        return get(f"{self.events}?clientId=check&channel=ch&limit=1000&after={after}")


@pytest.mark.timeout(600)
@pytest_twisted.ensureDeferred
async def test_nothing_acknowledged_is_lost_by_killing(start_daemon, soak):
    rounds = 25 if soak else 3

    async def lives(number: int) -> None:
        daemon = await start_daemon(TXBROKER_PROTOCOLS="ganomede", TXBROKER_POLL_TIMEOUT_SECONDS="0")
        witness = Witness(daemon, random.Random(number))
        for round_ in range(rounds):
            await witness.live(round_)
            await daemon.start()
            await witness.check()
        assert len(witness.acknowledged) >= rounds * WRITERS

    await gatherResults([Deferred.fromCoroutine(lives(number)) for number in range(DAEMONS)])
