"""Publishing, polling with cursors, and the latest events."""

from __future__ import annotations

import json

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.logger import LogLevel

from broker.access.principals import Access
from broker.errors import RateLimited, Unavailable
from broker.testing import value_of
from protocols.ganomede import events
from tests.protocols.ganomede_api import EVENTS, SECRET, Api, error


@pytest.fixture
def api():
    return Api()


# POST


def test_post_answers_the_whole_event_as_it_was_stored(api):
    response = api.post_raw(
        b'{"clientId":"w1","channel":"ch1","secret":"1234","from":"svc/v1","type":"ARR",'
        b'"data":[1, 2 ,3],"extra":"dropped","id":99,"timestamp":5}'
    )
    assert (response.status, response.content_type, response.plain) == (200, "application/json", False)
    assert response.body == b'{"id":1,"timestamp":1795211183941,"type":"ARR","from":"svc/v1","data":[1, 2 ,3]}'


def test_without_data_none_is_stored(api):
    assert api.post().body == b'{"id":1,"timestamp":1795211183941,"type":"T","from":"svc/v1"}'


def test_ids_count_per_channel(api):
    posted = [json.loads(api.post(channel).body)["id"] for channel in ("a", "a", "b", "a", "a:b", "b")]
    assert posted == [1, 2, 1, 3, 1, 2]


def test_time_passes_in_milliseconds(api):
    first = json.loads(api.post().body)["timestamp"]
    api.clock.advance(1.5)
    assert json.loads(api.post().body)["timestamp"] == first + 1500


def test_the_secret_inside_data_is_data(api):
    assert b'"data":{"secret": "mine"}' in api.post(data={"secret": "mine"}).body
    assert SECRET not in api.ask("GET", api.target("/latest", channel="ch")).body.decode()


def test_fields_of_an_event_come_from_the_body_only(api):
    body = json.dumps({"clientId": "w", "channel": "c", "from": "f", "secret": SECRET}).encode()
    assert api.post_raw(body, EVENTS + "?type=X").body == error("InvalidContent", "Invalid type")


def test_texts_are_quoted(api):
    api.post("ch", 'a"\\\n✓', **{"from": "\x00\u2028"})
    (event,) = json.loads(api.ask("GET", api.target("/latest", channel="ch")).body)
    assert (event["type"], event["from"]) == ('a"\\\n✓', "\x00\u2028")


# The cursor


def fill(api, count, channel="ch"):
    for _ in range(count):
        api.post(channel)


def test_reading_without_after_does_not_move_the_cursor(api):
    fill(api, 6)
    assert api.ids() == [1, 2, 3, 4, 5, 6]
    assert api.cursor() == 0
    assert api.ids() == [1, 2, 3, 4, 5, 6]


def test_after_moves_the_cursor_in_both_directions(api):
    fill(api, 6)
    assert api.ids(after=4) == [5, 6]
    assert api.ids() == [5, 6]
    assert api.ids(after=1) == [2, 3, 4, 5, 6]
    assert api.ids() == [2, 3, 4, 5, 6]
    assert api.ids(after=0, limit=1) == [1]
    assert api.cursor() == 0


def test_after_beyond_the_end_is_stored_too(api):
    fill(api, 6)
    assert api.ids(after=100) == []
    assert api.cursor() == 100
    assert api.ids() == []


@pytest.mark.parametrize("wrong", ["", "abc", "-1", "1.5", "01", "+1", "-0", "9007199254740992"])
def test_a_wrong_after_is_answered_from_the_beginning_but_not_stored(api, wrong):
    fill(api, 3)
    assert api.ids(after=2) == [3]
    assert api.ids(after=wrong) == [1, 2, 3]
    assert api.cursor() == 2


def test_a_repeated_after_is_wrong(api):
    fill(api, 2)
    target = api.target(clientId="c", channel="ch") + "&after=1&after=1"
    assert [event["id"] for event in json.loads(api.ask("GET", target).body)] == [1, 2]
    assert api.cursor() == 0


def test_cursors_are_of_a_client_and_a_channel(api):
    fill(api, 3, "users/v1:add")
    fill(api, 3, "add")
    assert api.ids("x", "users/v1:add", after=2) == [3]
    assert api.ids("x:users/v1", "add") == [1, 2, 3]
    assert api.ids("y", "users/v1:add") == [1, 2, 3]


def test_limits(api):
    fill(api, 120)
    assert len(api.ids()) == 100
    assert api.ids(limit=2) == [1, 2]
    assert len(api.ids(limit=120)) == 120
    for wrong in ("0", "-1", "x", "", "01", "1.0", "9007199254740992"):
        assert len(api.ids(limit=wrong)) == 100


def test_a_limit_is_at_most_a_thousand(api, monkeypatch):
    monkeypatch.setattr(events, "MAX_LIMIT", 7)
    fill(api, 9)
    assert api.ids(limit=2**53 - 1) == [1, 2, 3, 4, 5, 6, 7]


def test_an_answer_is_cut_where_it_grows_too_long(monkeypatch):
    monkeypatch.setattr(events, "MAX_BYTES", 100)
    api = Api()
    for size in (40, 40, 40, 200, 10):
        api.post(data=["x" * size])
    assert [api.ids(after=after) for after in (0, 2, 3, 4)] == [[1, 2], [3], [4], [5]]


# Long poll


def test_an_idle_poll_is_answered_with_nothing_at_its_timeout(api):
    poll = api.poll()
    api.clock.advance(4.9)
    assert not poll.called
    for _ in range(4):
        api.clock.advance(0.05)
    response = value_of(poll)
    assert (response.status, response.body, response.content_type) == (200, b"[]", "application/json")
    assert api.broker.channels.waiting == 0


def test_the_timeout_is_a_setting():
    api = Api(poll_timeout_seconds=1.0)
    poll = api.poll()
    for _ in range(22):
        api.clock.advance(0.05)
    assert value_of(poll).body == b"[]"


def test_a_post_wakes_all_who_wait_for_its_channel_and_nobody_else(api):
    waiting = [api.poll(f"c{n}") for n in range(50)]
    other = api.poll("c", "other")
    api.post()
    bodies = {value_of(poll).body for poll in waiting}
    assert bodies == {b'[{"id":1,"timestamp":1795211183941,"type":"T","from":"svc/v1"}]'}
    assert not other.called
    assert api.broker.channels.waiting == 1
    other.cancel()
    value_of(other.addErrback(lambda failure: failure.trap(CancelledError)))


def test_a_post_between_looking_and_waiting_wakes_the_poll(api, monkeypatch):
    channels = api.broker.channels
    read = channels.read

    def read_and_post(*words):
        found = read(*words)
        monkeypatch.setattr(channels, "read", read)
        api.post()
        return found

    monkeypatch.setattr(channels, "read", read_and_post)
    assert [event["id"] for event in json.loads(value_of(api.poll()).body)] == [1]


def test_a_poll_that_is_woken_for_nothing_goes_on_waiting(api):
    poll = api.poll(after=100)
    api.post()
    assert not poll.called
    for _ in range(60):
        api.clock.advance(0.1)
    assert value_of(poll).body == b"[]"


def test_a_poll_of_a_client_that_has_gone_leaves_nothing(api):
    poll = api.poll()
    assert api.broker.channels.waiting == 1
    poll.cancel()
    value_of(poll.addErrback(lambda failure: failure.trap(CancelledError)))
    assert api.broker.channels.waiting == 0
    assert not api.clock.getDelayedCalls() or api.broker.channels._waiters == {}


def test_draining_answers_those_who_wait_with_nothing(api):
    poll = api.poll()
    api.broker.drain()
    assert value_of(poll).body == b"[]"


def test_too_many_waiting_polls_are_refused():
    api = Api(max_waiting_polls=1)
    first = api.poll("a")
    response = api.start("GET", api.target(clientId="b", channel="ch"))
    api.clock.advance(1)
    refused = value_of(response)
    assert (refused.status, refused.headers) == (429, (("Retry-After", "1"),))
    api.post()
    assert value_of(first).status == 200


def test_live_events_that_are_not_stored_wake_nobody():
    api = Api(Access())
    poll = api.poll()
    api.broker.attach("other", "").publish("ch", "name", b"{}")
    assert not poll.called
    api.broker.drain()
    value_of(poll)


def test_an_event_of_another_dialect_is_answered_as_the_bridge_says():
    api = Api(Access(), durable_topics=("ch",))
    poll = api.poll()
    peer = api.broker.attach("other", "")
    value_of(peer.take_name("ann"))
    value_of(peer.publish("ch", "ch", b'"any json"'))
    assert value_of(poll).body == b'[{"id":1,"timestamp":1795211183941,"type":"ch","from":"ann","data":"any json"}]'


# Errors of polls are held back


def test_a_refused_poll_is_answered_after_a_while(api):
    poll = api.start("GET", f"{EVENTS}?secret=wrong")
    api.clock.advance(0.9)
    assert not poll.called
    api.clock.advance(0.2)
    response = value_of(poll)
    assert (response.status, response.plain) == (401, False)


def test_only_so_many_refusals_are_held(monkeypatch):
    monkeypatch.setattr(events, "MAX_HELD", 2)
    api = Api()
    polls = [api.start("GET", EVENTS) for _ in range(3)]
    assert [poll.called for poll in polls] == [False, False, True]
    polls[0].cancel()
    value_of(polls[0].addErrback(lambda failure: failure.trap(CancelledError)))
    assert not api.start("GET", EVENTS).called


def test_refusals_need_not_be_held():
    api = Api(error_delay_seconds=0.0)
    assert value_of(api.start("GET", EVENTS)).status == 401


def test_refusals_of_anything_else_are_not_held(api):
    for method, target in (("POST", EVENTS), ("GET", "/latest"), ("PUT", EVENTS), ("GET", "/events/v1/none")):
        assert api.start(method, target).called


def test_a_poll_that_fails_by_a_fault_of_ours_is_answered_and_logged(api, monkeypatch, logged):
    async def fail(*args):
        raise ZeroDivisionError

    monkeypatch.setattr(api.broker.channels, "poll", fail)
    poll = api.poll()
    api.clock.advance(1)
    response = value_of(poll)
    assert (response.status, response.body) == (500, error("Internal", "polling failed"))
    (line,) = [line for line in logged if line.get("log_level") == LogLevel.critical]
    assert line["req_id"] == "an-id"


def test_anothers_cursor_is_refused_without_a_wait_and_stays_where_it_is():
    api = Api(Access("required", keys={"ann": SECRET, "eve": "eve-key"}), poll_timeout_seconds=30.0)
    fill(api, 3)
    assert api.ids(after=2) == [3]
    answers = [api.poll("c", secret="eve-key", **more) for more in ({}, {"after": 3}, {"after": 0}, {"after": "x"})]
    assert api.broker.channels.waiting == 0
    api.clock.advance(1)
    refused = [(answer.status, answer.body) for answer in map(value_of, answers)]
    assert refused == [(403, error("Forbidden", "act c"))] * 4
    assert api.post(clientId="c", secret="eve-key").status == 403
    assert api.ids() == [3]


def test_a_poll_whose_cursor_can_not_be_stored_delivers_and_the_next_one_moves_it(api, monkeypatch):
    fill(api, 3)
    assert api.ids() == [1, 2, 3]
    with monkeypatch.context() as patch:
        patch.setattr(api.broker.store, "set", lambda *args, **options: fail(Unavailable("store")))
        assert api.ids(after=1) == [2, 3]
        assert api.ids(after=3) == []
        assert api.ids() == [1, 2, 3]  # the cursor is where it was
    assert api.ids(after=2) == [3]
    assert api.ids() == [3]


def test_a_poll_of_a_new_client_whose_id_can_not_be_stored_delivers(monkeypatch):
    api = Api(Access("required", keys={"ann": SECRET, "eve": "eve-key"}))
    fill(api, 3)
    assert api.ids("old", after=1) == [2, 3]
    monkeypatch.setattr(api.broker.store, "set", lambda *args, **options: fail(Unavailable("store")))
    assert api.ids("new") == [1, 2, 3]
    assert api.ids("newer", after=1) == [2, 3]
    api.broker.parts.owners.known.clear()
    refused = [api.poll("old", secret="eve-key"), api.poll("old", secret="eve-key", after=3)]
    api.clock.advance(1)
    assert [value_of(answer).status for answer in refused] == [403, 403]


def test_a_poll_whose_cursor_is_one_too_many_is_refused(api, monkeypatch):
    fill(api, 3)
    monkeypatch.setattr(api.broker.store, "set", lambda *args, **options: fail(RateLimited("limit", "cursors")))
    response = api.start("GET", api.target(clientId="c", channel="ch", after=1))
    api.clock.advance(1)
    assert value_of(response).status == 429


def test_nothing_is_answered_before_the_cursor_is_stored(api, monkeypatch):
    fill(api, 3)
    stored = Deferred()
    monkeypatch.setattr(api.broker.store, "set", lambda *args, **options: stored)
    poll = api.poll(after=1)
    assert not poll.called
    stored.callback(None)
    assert [event["id"] for event in json.loads(value_of(poll).body)] == [2, 3]


# A wiped store


def warnings(logged):
    return [line for line in logged if line.get("log_level") == LogLevel.warn]


def test_a_cursor_beyond_the_end_is_logged_once(api, logged):
    fill(api, 3)
    assert api.ids(after=100) == []
    assert api.ids(after=100) == []
    (line,) = warnings(logged)
    assert (line["client"], line["channel"], line["after"], line["newest"]) == ("c", "ch", 100, 3)


def test_a_client_beyond_the_end_gets_everything_once_it_has_asked_from_0(api, logged):
    fill(api, 3)
    assert api.ids(after=100) == api.ids() == []
    assert "before it asks with a lower after, such as 0" in warnings(logged)[0]["then"]
    assert api.ids(after=0, limit=1) == [1]
    assert api.ids() == [1, 2, 3]


def test_a_cursor_at_the_end_is_nothing_to_log(api, logged):
    fill(api, 3)
    assert api.ids(after=3) == []
    assert not warnings(logged)


def test_what_was_logged_is_remembered_within_bounds(monkeypatch, logged):
    monkeypatch.setattr(events, "MAX_LOGGED", 1)
    api = Api()
    for client in ("a", "b", "a"):
        assert api.ids(client, after=9) == []
    assert [line["client"] for line in warnings(logged)] == ["a", "b", "a"]


def test_an_idle_poll_is_answered_even_when_the_store_has_gone_meanwhile(api):
    poll = api.poll(after=5)
    read = api.broker.channels.read("ch", 0, 1)
    api.broker.channels.read = lambda *args: read
    api.broker.store.stopService()
    for _ in range(60):
        api.clock.advance(0.1)
    assert value_of(poll).body == b"[]"


# Latest


def test_latest_answers_the_last_events_in_rising_order(api):
    fill(api, 6)
    for path in ("/latest", "/events/v1/latest"):
        response = api.ask("GET", api.target(path, channel="ch", limit=2))
        assert [event["id"] for event in json.loads(response.body)] == [5, 6]


def test_latest_of_an_unknown_channel_is_empty(api):
    response = api.ask("GET", api.target("/latest", channel="none"))
    assert (response.status, response.body) == (200, b"[]")


def test_latest_has_the_limits_of_a_poll(api):
    fill(api, 120)
    for limit, count in (("0", 100), ("x", 100), ("110", 110), ("1000", 120)):
        response = api.ask("GET", api.target("/latest", channel="ch", limit=limit))
        assert len(json.loads(response.body)) == count


def latest_ids(api):
    return [event["id"] for event in json.loads(api.ask("GET", api.target("/latest", channel="ch")).body)]


def test_latest_is_cut_where_it_grows_too_long(monkeypatch):
    monkeypatch.setattr(events, "MAX_BYTES", 100)
    api = Api()
    for size in (10, 200, 40, 40):
        api.post(data=["x" * size])
    assert latest_ids(api) == [3, 4]
    api.post(data=["x" * 200])
    assert latest_ids(api) == [5]


def test_latest_needs_a_channel(api):
    response = api.ask("GET", "/latest?secret=1234&channel[]=ch1")
    assert (response.status, response.body) == (400, error("InvalidContent", "Invalid Channel"))


def test_whoever_shows_the_epoch_is_told_that_the_store_was_wiped(api):
    api.post()
    answer = value_of(api.poll(after=0, epoch=""))
    assert answer.headers == (("X-Epoch", api.broker.store.epoch),)
    assert value_of(api.poll(after=0, epoch=api.broker.store.epoch)).body == answer.body
    refused = api.ask("GET", api.target(clientId="c", channel="ch", after=1, epoch="of the past"))
    assert (refused.status, json.loads(refused.body)["code"]) == (410, "Gone")
    assert refused.headers == answer.headers


def test_whoever_shows_the_epoch_is_told_of_ids_that_were_lost_when_nobody_noticed(api, logged):
    api.post()
    epoch = api.broker.store.epoch
    refused = api.ask("GET", api.target(clientId="c", channel="ch", after=2, epoch=epoch))
    assert (refused.status, refused.headers) == (410, (("X-Epoch", epoch),))
    assert not api.poll(after=1, epoch=epoch).called
    assert [event["then"] for event in logged if "then" in event] == ["It is told to begin anew"]
    assert json.loads(value_of(api.poll(after=0, epoch=epoch)).body)[0]["id"] == 1


def test_a_poll_that_waits_when_the_epoch_ends_is_told(api):
    waiting = api.poll(after=0, epoch=api.broker.store.epoch)
    api.broker.store.epoch = "another"
    api.broker.channels.end_polls()
    api.clock.advance(1.0)  # for which what says no is held back
    answer = value_of(waiting)
    assert (answer.status, answer.headers) == (410, (("X-Epoch", "another"),))
