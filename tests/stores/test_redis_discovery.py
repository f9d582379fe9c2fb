"""Sentinels are asked where the master is, and why that is not known is told."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.redis.discovery import DISCOVERY_TIMEOUT, Discovery, NoMaster


class FakeSentinel:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.answer: Deferred[Any] = Deferred()

    def sentinel_masters(self) -> Deferred[Any]:
        return self.answer


def state(*, down: bool = False, port: int = 1) -> dict[str, Any]:
    return {"is_master": True, "is_sdown": down, "is_odown": False, "ip": "10.0.0.1", "port": str(port)}


def ask(*answers: Any) -> Deferred[tuple[str, int]]:
    """Return what is found by Sentinels of which each gives one of *answers*; None: it gives none until the end."""
    clock, sentinels = Clock(), [FakeSentinel() for _ in answers]
    asked = Deferred.fromCoroutine(Discovery("shop").ask(sentinels, clock))
    for sentinel, answer in zip(sentinels, answers, strict=True):
        if isinstance(answer, Exception):
            sentinel.answer.errback(answer)
        elif answer is not None:
            sentinel.answer.callback(answer)
    if None in answers:
        clock.advance(DISCOVERY_TIMEOUT)
    assert clock.getDelayedCalls() == []
    for sentinel, answer in zip(sentinels, answers, strict=True):
        if answer is None:
            sentinel.answer.errback(ConnectionError("too late"))
    return asked


@pytest_twisted.ensureDeferred
async def test_the_first_that_knows_one_which_is_up_says_where() -> None:
    assert await ask(None, OSError("gone"), {}, {"shop": state(port=7)}, {"shop": state(port=8)}) == ("10.0.0.1", 7)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (({"cart": state(), "book": state()}, {}), "the Sentinels know no master 'shop': they know 'book', 'cart'"),
        (({}, None), "the Sentinels know no master 'shop': they know none"),
        (({"shop": state(down=True)}, OSError("gone"), {}), "the Sentinels say that the master 'shop' is down"),
        ((OSError("gone"), OSError("gone"), OSError("NOAUTH")), "no Sentinel answers: NOAUTH; gone"),
        ((None, None), "no Sentinel answers"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_why_there_is_none_is_told(answers: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(NoMaster) as caught:
        await ask(*answers)
    assert str(caught.value) == reason
