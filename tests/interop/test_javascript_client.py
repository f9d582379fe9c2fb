"""The JavaScript client under Node against a daemon that is stopped, killed and started again."""

from __future__ import annotations

import json
from typing import Any

import pytest_twisted

from tests.support.daemon import Daemon
from tests.support.node import Node
from tests.support.processes import Program


async def said(program: Program, word: str) -> Any:
    """Return what *program* says next of *word*."""
    line = await program.line(lambda line: line.startswith(f'["{word}"'))
    return json.loads(line)[1]


@pytest_twisted.ensureDeferred
async def test_it_goes_on_when_the_broker_is_stopped_and_killed(daemon: Daemon, node: Node) -> None:
    program = node.start("javascript_client.mjs", f"ws://127.0.0.1:{daemon.port}/v1/ws", "restarts")
    rounds = []
    for number, restart in enumerate((daemon.restart, daemon.kill, None)):
        rounds.append(await said(program, "round"))
        assert rounds[-1] == {
            "number": number,
            "event": number,
            "passing": number,
            "change": str(number),
            "job": number,
            "result": 2 * number,
            "answers": [number, number],
        }
        if restart is not None:
            await restart()
            if restart == daemon.kill:
                await daemon.start()
        program.say("go on")
    end = await said(program, "end")
    assert (end["connections"], end["losses"], end["duplicates"], end["pending"]) == (3, 2, 0, 0)
    assert await program.exit() == 0, program.report()  # by itself: no timer and no socket is left


@pytest_twisted.ensureDeferred
async def test_what_is_published_while_the_broker_is_away_is_stored_once(daemon: Daemon, node: Node) -> None:
    program = node.start("javascript_client.mjs", f"ws://127.0.0.1:{daemon.port}/v1/ws", "away")
    assert await said(program, "ready") is True
    await daemon.kill()
    program.say("go on")
    assert await said(program, "failed") == ["NOT_CONNECTED", False]
    await daemon.start()
    assert await said(program, "stored") == [1, 2, 3]
    assert await said(program, "events") == ["a", "b", "c"]
    assert await program.exit() == 0, program.report()


@pytest_twisted.ensureDeferred
async def test_it_shows_its_credential_and_is_told_of_a_wrong_one(start_daemon, node: Node) -> None:
    daemon = await start_daemon(TXBROKER_API_KEYS="ann:k3y-of-ann-0123456789", TXBROKER_AUTH="required")
    url = f"ws://127.0.0.1:{daemon.port}/v1/ws"
    good = node.start("javascript_client.mjs", url, "credential", "k3y-of-ann-0123456789")
    assert await said(good, "identity") == {"id": "ann", "stage": "authenticated"}
    assert await said(good, "refreshed") == "UNAUTHENTICATED"
    wrong = node.start("javascript_client.mjs", url, "credential", "wrong")
    assert await said(wrong, "failed") == "UNAUTHENTICATED"
    for program in (good, wrong):
        assert await program.exit() == 0, program.report()


@pytest_twisted.ensureDeferred
async def test_its_calls_are_cancelled_at_the_callee_and_may_be_answered_late(daemon: Daemon, node: Node) -> None:
    program = node.start("javascript_client.mjs", f"ws://127.0.0.1:{daemon.port}/v1/ws", "calls")
    assert await said(program, "cancelled") == ["CANCELLED", "stop"]
    assert await said(program, "aborted") == "CANCELLED"
    assert await said(program, "late") == ["TIMEOUT", "at last"]
    assert await said(program, "present") == [["ann", {"nick": "Ann"}]]
    assert await said(program, "mail") == {"n": 1}
    assert await program.exit() == 0, program.report()
