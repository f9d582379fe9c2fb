"""The table of the channel's states, walked by what clients, transports and dialects do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred

from broker.messages import HttpRequest, Response
from broker.web.http import channel as channels
from broker.web.http.channel import HttpChannel
from broker.web.http.states import IS_ENDING, TRANSITIONS, ChannelEvent, State
from tests.web.http.fake_site import GET, FakeSite, get
from tests.web.wire import Wire


class Recorder(dict[tuple[State, ChannelEvent], State]):
    """The table, which remembers what was looked up."""

    def __init__(self) -> None:
        super().__init__(TRANSITIONS)
        self.used: set[tuple[State, ChannelEvent]] = set()

    def __getitem__(self, key: tuple[State, ChannelEvent]) -> State:
        self.used.add(key)
        return super().__getitem__(key)


class Scene(Wire):
    """A channel whose every answer awaits twice, the first time in spite of being cancelled."""

    def __init__(self) -> None:
        self.site = FakeSite()
        self.results: list[Deferred[None]] = []
        self.site.answer = self.answer  # type: ignore[method-assign]
        super().__init__(HttpChannel(self.site, ""))

    async def answer(self, request: HttpRequest) -> Response:
        try:
            await self.next()
        except CancelledError:
            await self.next()
        await self.next()
        if request.path.startswith("/stream"):
            return Response(body=self.pieces(fails=request.path == "/stream-fails"))
        return Response(close=request.path == "/last")

    async def pieces(self, *, fails: bool) -> AsyncIterator[bytes]:
        for _ in range(2):
            try:
                await self.next()
            except CancelledError:
                await self.next()
            yield b"x"
        if fails:
            raise ValueError

    def next(self) -> Deferred[None]:
        self.results.append(Deferred())
        return self.results[-1]

    def loseConnection(self) -> None:
        """Stay open, as a socket does whose client has not read everything."""

    def act(self, name: str) -> None:
        """Do what *name* says, if a transport or a client could do it now."""
        done = self.lost or (name in ("pause", "resume") and self.producer is None)
        if name == "result":
            if self.results:
                result = self.results.pop()
                if not result.called:
                    result.callback(None)
        elif not done:
            getattr(self, f"act_{name}")()

    def act_ask(self) -> None:
        self.server.dataReceived(GET)

    def act_ask_last(self) -> None:
        self.server.dataReceived(get("/last"))

    def act_ask_stream(self) -> None:
        self.server.dataReceived(get("/stream"))

    def act_ask_failing_stream(self) -> None:
        self.server.dataReceived(get("/stream-fails"))

    def act_ask_head(self) -> None:
        self.server.dataReceived(get("/stream", method="HEAD"))

    def act_nonsense(self) -> None:
        self.server.dataReceived(b"nonsense\r\n\r\n")

    def act_pause(self) -> None:
        self.server.pauseProducing()

    def act_resume(self) -> None:
        self.server.resumeProducing()

    def act_finish(self) -> None:
        self.server.finish()

    def act_end(self) -> None:
        self.end()

    def act_wait(self) -> None:
        self.site.clock.pump([5.0] * 20)

    def act_lose(self) -> None:
        self.lose()


ACTS = [name.removeprefix("act_") for name in vars(Scene) if name.startswith("act_")] + ["result"]
WALKS = {
    "an answer that awaits twice": "ask result result ask",
    "a blocked client": "resume pause pause resume",
    "a client that is blocked during an answer": "ask resume pause pause result result resume ask pause resume",
    "a stream": "ask_stream result result result result ask",
    "a stream to a client that is blocked": "ask_stream result pause result resume result result pause resume",
    "a stream that fails": "ask_failing_stream result result result result ask",
    "the end of an idle channel": "finish lose",
    "the end of a blocked channel": "pause finish lose",
    "the end of a blocked answer": "ask_last pause result result lose",
    "a refused request": "nonsense lose",
    "a client that leaves": "lose",
    "a blocked client that leaves": "pause lose",
    "a client that leaves an answer behind": "ask lose result result",
    "a blocked client that leaves an answer behind": "ask pause lose result",
}


def walk(acts: list[str], monkeypatch: Any) -> Recorder:
    """Return the table with what was used of it in the course of *acts*."""
    recorder = Recorder()
    monkeypatch.setattr(channels, "TRANSITIONS", recorder)
    scene = Scene()
    for name in acts:
        scene.act(name)
    scene.lose()
    assert scene.server._state is State.CLOSED
    assert len(scene.site.deadlines) == 0
    assert recorder.used <= set(TRANSITIONS)  # what is missing raises, which a timer would only log
    return recorder


def test_every_transition_of_the_table_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    used = set().union(*(walk(acts.split(), monkeypatch).used for acts in WALKS.values()))
    assert used == set(TRANSITIONS)


@given(acts=st.lists(st.sampled_from(ACTS), max_size=30))
def test_no_transition_happens_that_is_not_in_the_table(acts: list[str]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        walk(acts, monkeypatch)


@pytest.mark.parametrize("state", State)
def test_every_state_is_reached_and_left_for_closed_only(state: State) -> None:
    assert state is State.READY or state in {to for (start, _), to in TRANSITIONS.items() if start is not state}
    ends = {to for (start, _), to in TRANSITIONS.items() if start is state}
    assert State.CLOSED in ends
    if state in IS_ENDING:
        assert ends == {State.CLOSED}
