"""The link between the supervisor and a worker, over real sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory

from broker.app.workers.link import ControlLink
from broker.errors import Denied, Unavailable
from tests.support.eventually import eventually

reactor: Any = installed


def adopt(end: socket.socket, link: ControlLink) -> ControlLink:
    with end:
        end.setblocking(False)
        reactor.adoptStreamConnection(end.fileno(), socket.AF_UNIX, Factory.forProtocol(lambda: link))
    return link


class Pair:
    """Two ends; what the second is asked it notes."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.told: list[tuple[str, bytes]] = []
        self.waiting: Deferred[bytes] = Deferred(lambda _: self.asked.append("cancelled"))
        one, other = socket.socketpair()
        self.one = adopt(one, ControlLink(self.answer))
        self.other = adopt(other, ControlLink(self.answer, lambda *told: self.told.append(told)))

    async def answer(self, name: str, body: bytes) -> bytes:
        self.asked.append(name)
        if name == "wait":
            return await self.waiting
        if name == "refuse":
            raise Denied("link", name)
        if name == "fail":
            raise RuntimeError("provoked")
        if name == "read":
            descriptor = self.other.descriptor()
            with os.fdopen(descriptor) as file:
                return file.read().encode()
        return body[::-1]


@pytest_twisted.async_yield_fixture
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    yield made
    for link in (made.one, made.other):
        link.close()
    await eventually(lambda: not (made.one.connected or made.other.connected))


@pytest_twisted.ensureDeferred
async def test_a_question_is_answered_and_what_is_told_arrives(pair):
    pair.one.notify("news", b"1")
    assert await pair.one.ask("turn", b"abc") == b"cba"
    assert pair.told == [("news", b"1")]


@pytest.mark.parametrize("name", ["refuse", "fail"])
@pytest_twisted.ensureDeferred
async def test_an_error_is_told_as_such(pair, name, logged):
    with pytest.raises(Unavailable):
        await pair.one.ask(name)
    failures = [event["log_failure"].value.args for event in logged if "log_failure" in event]
    assert failures == ([("provoked",)] if name == "fail" else [])


@pytest_twisted.ensureDeferred
async def test_a_question_that_nobody_waits_for_is_given_up_at_the_other_side(pair):
    asking = pair.one.ask("wait")
    await eventually(lambda: pair.asked == ["wait"])
    asking.cancel()
    with pytest.raises(CancelledError):
        await asking
    await eventually(lambda: pair.asked == ["wait", "cancelled"])


@pytest_twisted.ensureDeferred
async def test_the_end_of_a_link_fails_what_waits_and_what_is_asked_later(pair):
    asking = pair.one.ask("wait")
    await eventually(lambda: pair.asked == ["wait"])
    pair.other.close()
    with pytest.raises(Unavailable):
        await asking
    assert pair.asked == ["wait", "cancelled"]
    with pytest.raises(Unavailable):
        await pair.one.ask("turn")
    pair.one.notify("news")


@pytest_twisted.ensureDeferred
async def test_a_descriptor_goes_with_its_question_and_is_closed_here(pair, tmp_path):
    descriptors = []
    for number in range(3):
        (tmp_path / f"{number}").write_text(f"file {number}")
        descriptors.append(os.open(tmp_path / f"{number}", os.O_RDONLY))
    asking = [pair.one.ask("read", b"", descriptor) for descriptor in descriptors]
    assert [await each for each in asking] == [b"file 0", b"file 1", b"file 2"]
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
