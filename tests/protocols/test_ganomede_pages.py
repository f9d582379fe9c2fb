"""Answers of many or large events, which are read from the store while they are sent."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from broker.interfaces import IPeer
from broker.messages import HttpRequest, Response
from broker.testing import FakeStream, http_request, make_broker, value_of
from protocols.ganomede import dialect, events
from tests.protocols.ganomede_api import EVENTS

PAGE = 1000


class Channel:
    """One channel, asked through the routes of the public port."""

    def __init__(self, **settings: Any) -> None:
        self.broker = make_broker(**settings)
        self.dialect = dialect(self.broker.settings)
        self.reads: list[int] = []
        store = self.broker.store
        self._read, store.read = store.read, self.read  # type: ignore[method-assign]

    def read(self, log: str, after: int, limit: int, max_bytes: int = 0) -> Any:
        self.reads.append(after)
        return self._read(log, after, limit, max_bytes)

    def fill(self, *sizes: int) -> None:
        peer: IPeer = self.broker.attach("ganomede", "127.0.0.1")
        for size in sizes:
            value_of(peer.post("ch", "T", b'["%b"]' % (b"x" * (size - 4))))

    def get(self, **words: object) -> Response:
        query = "&".join(f"{name}={value}" for name, value in {"clientId": "c", "channel": "ch", **words}.items())
        answer: Response = value_of(http_request(self.broker, self.dialect, "GET", f"{EVENTS}?{query}"))
        return answer

    def ids(self, **words: object) -> list[int]:
        body = self.get(**words).body
        if isinstance(body, FakeStream):
            body = whole(body)
        return [event["id"] for event in json.loads(body)]  # type: ignore[arg-type]


def whole(stream: FakeStream) -> bytes:
    """Read *stream* to its end."""
    data = b""
    while piece := stream.take():
        data += piece
    assert stream.ended
    return data


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Channel:
    monkeypatch.setattr(events, "PAGE_BYTES", PAGE)
    return Channel()


def test_few_small_events_are_an_answer_with_a_length(channel: Channel) -> None:
    channel.fill(300, 300, 300)
    answer = channel.get()
    assert isinstance(answer.body, bytes)
    assert [event["id"] for event in json.loads(answer.body)] == [1, 2, 3]


@pytest.mark.parametrize(
    "sizes", [(300,) * 40, (5000,) * 3, (300, 5000, 300), (999, 1), (1000,), (1001, 300), (10, 5000)]
)
def test_an_answer_has_all_events_whatever_their_sizes(channel: Channel, sizes: tuple[int, ...]) -> None:
    channel.fill(*sizes)
    assert channel.ids() == list(range(1, len(sizes) + 1))


def test_an_answer_of_pages_is_the_same_text(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    channel.fill(*(300,) * 20)
    paged = whole(channel.get().body)  # type: ignore[arg-type]
    monkeypatch.setattr(events, "PAGE_BYTES", 1 << 20)
    channel.dialect = dialect(channel.broker.settings)
    assert channel.get().body == paged


@pytest.mark.parametrize("limit", [1, 3, 4, 7, 20, 21])
def test_limit_holds_over_pages(channel: Channel, limit: int) -> None:
    channel.fill(*(300,) * 20)
    assert channel.ids(limit=limit) == list(range(1, min(limit, 20) + 1))


@pytest.mark.parametrize(
    ("bytes_", "ids"), [(3000, [1, 2, 3]), (3500, [1, 2, 3]), (100, [1]), (1000, [1]), (2000, [1, 2])]
)
def test_an_answer_ends_where_it_grows_too_long(monkeypatch: pytest.MonkeyPatch, bytes_: int, ids: list[int]) -> None:
    monkeypatch.setattr(events, "PAGE_BYTES", PAGE)
    monkeypatch.setattr(events, "MAX_BYTES", bytes_)
    channel = Channel()
    channel.fill(*(1000,) * 10)
    assert channel.ids() == ids


def test_no_page_is_read_for_a_client_that_does_not_read(channel: Channel) -> None:
    channel.fill(*(40_000,) * 30)
    stream: Any = channel.get().body
    before = list(channel.reads)
    assert len(before) < 6
    for _ in range(3):
        channel.broker.clock.advance(1.0)  # type: ignore[attr-defined]
    assert channel.reads == before
    assert len(json.loads(whole(stream))) == 30


def test_a_first_page_that_waits_for_a_client_is_counted(channel: Channel) -> None:
    channel.fill(*(40_000,) * 3)
    peer, request = (
        channel.broker.attach("ganomede", "127.0.0.1"),
        HttpRequest("GET", EVENTS, "clientId=c&channel=ch", {}),
    )
    body: Any = value_of(Deferred.fromCoroutine(channel.dialect.answer(peer, request))).body
    held = channel.broker.memory.held
    assert held.used == 40_000
    assert len(value_of(Deferred.fromCoroutine(body.__anext__()))) > 40_000
    assert held.used == 0


def test_a_page_is_one_read() -> None:
    channel = Channel()
    channel.fill(*(20,) * 90)
    channel.get()
    assert channel.reads == [0]


def test_nothing_is_read_before_the_cursor_is_stored(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    channel.fill(*(40_000,) * 3)
    stored: Deferred[Any] = Deferred()
    monkeypatch.setattr(channel.broker.store, "set", lambda *words, **more: stored)
    target = f"{EVENTS}?clientId=c&channel=ch&after=1"
    answer = http_request(channel.broker, channel.dialect, "GET", target)
    assert channel.reads == []  # very many polls may wait for the store
    stored.callback(None)
    assert [event["id"] for event in json.loads(whole(value_of(answer).body))] == [2, 3]


def test_a_client_that_goes_away_leaves_nothing(channel: Channel) -> None:
    channel.fill(*(40_000,) * 30)
    stream: Any = channel.get().body
    reads = len(channel.reads)
    stream.leave()
    stream.take()
    assert len(channel.reads) == reads


def test_a_page_is_no_longer_than_what_may_wait_for_a_client() -> None:
    channel = Channel(send_queue_bytes=500)
    channel.fill(*(300,) * 5)
    assert isinstance(channel.get().body, FakeStream)
    assert channel.ids() == [1, 2, 3, 4, 5]


def test_an_answer_breaks_off_when_the_store_was_wiped_meanwhile(channel: Channel) -> None:
    channel.fill(*(40_000,) * 30)
    stream: Any = channel.get().body
    channel.broker.store.epoch = "another"
    while stream.take():
        pass
    assert (stream.broken, stream.ended) == (True, False)


def test_the_epoch_is_told_with_pages_too(channel: Channel) -> None:
    channel.fill(*(300,) * 20)
    answer = channel.get(epoch="")
    assert answer.headers == (("X-Epoch", channel.broker.store.epoch),)
    assert len(json.loads(whole(answer.body))) == 20  # type: ignore[arg-type]


def test_events_that_come_while_an_answer_is_sent_may_be_in_it(channel: Channel) -> None:
    channel.fill(*(40_000,) * 5)
    stream: Any = channel.get().body
    channel.fill(300)
    assert [event["id"] for event in json.loads(whole(stream))] == [1, 2, 3, 4, 5, 6]


def test_a_page_that_is_sent_is_kept_by_nobody_else(channel: Channel) -> None:
    channel.fill(*(300,) * 10)
    peer = channel.broker.attach("ganomede", "127.0.0.1")
    request = HttpRequest("GET", EVENTS, "clientId=c&channel=ch&after=0", {}, address="127.0.0.1")
    answer = value_of(Deferred.fromCoroutine(channel.dialect.answer(peer, request)))
    page = first_of(answer.body)
    references = sys.getrefcount(page)
    assert page.startswith(b'[{"id":1,')
    assert references == 2  # of this function, and of the call


def first_of(pages: Any) -> bytes:
    """Return the first page of *pages*, which need not wait for it."""
    try:
        pages.__anext__().send(None)
    except StopIteration as stop:
        page: bytes = stop.value
    return page
