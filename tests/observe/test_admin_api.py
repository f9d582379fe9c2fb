"""The admin API: what its lists show, what its actions do, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import CancelledError, Deferred

from broker.access.principals import Access
from broker.app.tap import make_history
from broker.errors import CalleeFailed, Unavailable
from broker.jobs import Worker
from broker.messages import Identity, Request
from broker.observe.admin.api import AdminApi
from broker.observe.admin.history import INTERVAL, KEPT
from broker.observe.admin.live import MAX_STREAMS
from broker.observe.admin.paging import MAX_LIMIT
from broker.sessions import BaseSession
from broker.testing import http_request, make_broker, value_of
from tests.support.logs import lines_of

HEADERS = {"content-type": "application/json"}


def do(coroutine: Any) -> Any:
    return value_of(Deferred.fromCoroutine(coroutine))


@attrs.define(eq=False)
class Session(BaseSession):
    """Remembers how it was disconnected; answers calls with *answer*."""

    peer: Any
    ended: Any = None
    events: list[Any] = attrs.field(factory=list)
    answer: Any = b'"pong"'

    def disconnect(self, code, reason):
        self.ended = code, reason
        self.peer.close()

    def event(self, event, pattern):
        self.events.append(event)

    def request(self, request):
        failed = isinstance(self.answer, Exception)
        self.peer.answer(request.id, b"null" if failed else self.answer, self.answer if failed else None)


class Admin:
    """A broker with its admin API."""

    def __init__(self, **settings: Any) -> None:
        self.levels: list[str] = []
        self.drained = 0
        self.broker = make_broker(**settings)
        self.history = make_history(self.broker)
        self.api = AdminApi(self.broker, self.history, drain=self.drain, set_level=self.levels.append)

    def drain(self):
        self.drained += 1

    def ask(self, method, path, body=b"", headers=HEADERS):
        return value_of(http_request(self.broker, self.api, method, f"/admin/api/{path}", body, headers))

    def get(self, path):
        answer = self.ask("GET", path)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    def rows(self, path):
        return self.get(path)["items"]

    def post(self, path, **body):
        answer = self.ask("POST", path, json.dumps(body))
        return answer.status, json.loads(answer.body)

    def client(self, name="", **more):
        peer = self.broker.attach(more.get("dialect", "owlmeans"), more.get("address", "10.0.0.1"))
        peer.admit(Identity("user", name, name))
        session = Session(peer)
        peer.bind(session)
        peer.appear()
        return session


@pytest.fixture
def admin():
    return Admin()


def test_the_index_names_every_list_and_action(admin):
    index = admin.get("")
    assert sorted(index["views"]) == sorted(admin.api.views)
    assert sorted(index["actions"]) == sorted(admin.api.actions)


def test_the_documentation_names_every_list_and_action(admin):
    page = (Path(__file__).parents[2] / "docs/operations/admin.rst").read_text("utf-8")
    for name in (*admin.api.views, *admin.api.actions, "tokens/revoke"):
        assert f"\n``{name}``  " in page, name


def test_the_status_says_what_the_daemon_is_and_does(admin):
    admin.client()
    status = admin.get("status")
    assert (status["name"], status["node"], status["ready"], status["draining"]) == ("txbroker", "test", [], False)
    assert status["gauges"]["sessions"] == 1
    assert status["totals"]["connections"] == 0


@pytest.mark.parametrize("name", sorted(Admin().api.views))
def test_every_list_is_empty_or_shows_rows_and_is_bounded(admin, name):
    query = "queue=q&" if name == "dead" else ""
    page = admin.get(f"{name}?{query}limit=1")
    assert set(page) >= {"items", "next", "total", "complete", "node"}
    assert len(page["items"]) <= 1
    for wrong in ("limit=0", f"limit={MAX_LIMIT + 1}", "limit=x", "nothing=1", "limit=1&limit=2", "sort=nothing", "x"):
        answer = admin.ask("GET", f"{name}?{query}{wrong}")
        assert (answer.status, answer.content_type) == (400, "application/problem+json"), wrong


def test_sessions_are_shown_sorted_searched_and_in_pages(admin):
    for index in range(5):
        session = admin.client(f"ann-{index}", address=f"10.0.0.{index}")
        for topic in range(index):
            session.peer.subscribe(f"t{topic}")
    page = admin.get("sessions?sort=subscriptions&limit=2")
    assert [row["client"] for row in page["items"]] == ["ann-4", "ann-3"]
    assert (page["total"], page["complete"]) == (5, True)
    page = admin.get(f"sessions?sort=subscriptions&limit=2&after={page['next']}")
    assert [row["client"] for row in page["items"]] == ["ann-2", "ann-1"]
    assert [row["client"] for row in admin.rows("sessions?q=0.0.3")] == ["ann-3"]
    assert [row["client"] for row in admin.rows("sessions?sort=client&order=desc&limit=1")] == ["ann-4"]
    (row,) = admin.rows("sessions?q=ann-4")
    assert row["principal"] == "user:ann-4"
    assert admin.get(f"session?id={row['id']}")["topics"] == ["t0", "t1", "t2", "t3"]
    assert admin.ask("GET", "session?id=none").status == 404


def test_topics_are_shown_with_how_many_listen(admin):
    ann, bob = admin.client(), admin.client()
    ann.peer.subscribe("news")
    bob.peer.subscribe("news")
    bob.peer.subscribe("news.*")
    assert admin.rows("topics") == [
        {"topic": "news", "pattern": False, "subscribers": 2},
        {"topic": "news.*", "pattern": True, "subscribers": 1},
    ]
    bob.peer.unsubscribe("news.*")
    assert len(admin.rows("topics")) == 1


def test_services_are_shown_with_who_performs_them(admin):
    ann = admin.client("clock")
    do(ann.peer.perform(["math.add"]))
    do(ann.peer.perform(["clock"], as_service=True))
    rows = {row["name"]: row for row in admin.rows("services")}
    assert rows["math.add"]["kind"] == "procedure"
    assert rows["clock"]["kind"] == "service"
    assert rows["math.add"]["sessions"] == [ann.peer.id]


def test_channels_are_shown_with_head_cursors_and_lag(admin):
    ann = admin.client("ann").peer
    for number in range(5):
        do(_awaited(ann.publish("log", "n", b"%d" % number, durable=True)))
    do(_awaited(ann.publish("other", "n", b"1", durable=True)))
    for client, id in (("ann", 4), ("bob", 2)):
        do(_awaited(admin.broker.channels.move_cursor(client, "log", id, stamped=True)))
    rows = {row["channel"]: row for row in admin.rows("channels")}
    assert rows["log"] == {"channel": "log", "head": 5, "cursors": 2, "lag": 3, "subscribers": 0}
    assert rows["other"] == {"channel": "other", "head": 1, "cursors": 0, "lag": 0, "subscribers": 0}
    page = admin.get("channels?limit=1")
    assert admin.rows(f"channels?limit=1&after={page['next']}") == [rows["other"]]
    assert admin.rows("channels?q=ot") == [rows["other"]]
    cursors = admin.rows("cursors")
    assert [(row["client"], row["id"], row["lag"]) for row in cursors] == [("ann", 4, 1), ("bob", 2, 3)]
    assert [row["client"] for row in admin.rows("cursors?client=bob&topic=log")] == ["bob"]
    assert admin.rows("cursors?topic=none") == []


def test_keys_are_shown_without_their_values(admin):
    peer = admin.client().peer
    for key in ("a/1", "a/2", "b/1"):
        do(_awaited(peer.set(key, b"value of " + key.encode())))
    page = admin.get("keys?q=a/&limit=1")
    assert page["items"] == [{"key": "a/1", "bytes": 12, "revision": 1, "expires": None}]
    assert [row["key"] for row in admin.rows(f"keys?q=a/&after={page['next']}")] == ["a/2"]
    assert b"value" not in admin.ask("GET", "keys").body


def _dead(admin, queue="q", count=2):
    jobs = admin.broker.store.jobs
    worker = Worker("w", "node", named=True)
    for number in range(count):
        do(_awaited(admin.client().peer.add_job(queue, b'{"n":%d}' % number)))
        (job,) = do(_awaited(jobs.claim(queue, [(worker, 30.0)]))).jobs
        do(_awaited(jobs.fail(job.number, job.token, "w", reason="broken", delays=())))


def test_queues_and_their_dead_letters_are_shown(admin):
    do(_awaited(admin.client().peer.add_job("mail", b"1")))
    _dead(admin)
    rows = {row["queue"]: row for row in admin.rows("queues")}
    assert (rows["mail"]["ready"], rows["mail"]["dead"]) == (1, 0)
    assert (rows["q"]["ready"], rows["q"]["dead"]) == (0, 2)
    assert [row["queue"] for row in admin.rows("queues?q=ai")] == ["mail"]
    page = admin.get("dead?queue=q&limit=1")
    assert (page["items"][0]["reason"], page["items"][0]["bytes"]) == ("broken", 7)
    second = admin.rows(f"dead?queue=q&limit=1&after={page['next']}")
    assert second[0]["id"] != page["items"][0]["id"]
    assert admin.ask("GET", "dead").status == 400


def test_queues_come_page_by_page_whatever_is_searched(admin):
    for number in range(5):
        do(_awaited(admin.client().peer.add_job(f"q{number}", b"1")))
    seen, after = [], ""
    while after is not None:
        page = admin.get(f"queues?q=q&limit=2&after={after}")
        seen += [row["queue"] for row in page["items"]]
        after = page["next"]
    assert seen == ["q0", "q1", "q2", "q3", "q4"]


def test_dead_letters_are_retried_and_dropped(admin):
    _dead(admin, count=3)
    first, *_ = admin.rows("dead?queue=q")
    assert admin.post("queues/retry", queue="q", ids=[first["id"]]) == (200, {"retried": 1})
    assert admin.post("queues/drop", queue="q", all=True) == (200, {"dropped": 2})
    (row,) = admin.rows("queues")
    assert (row["ready"], row["dead"]) == (1, 0)
    assert admin.post("queues/drop", queue="q")[0] == 400
    assert admin.post("queues/drop", queue="q", ids=[], all=True)[0] == 400


def test_settings_are_shown_without_secrets():
    admin = Admin(api_secret="a-secret-that-nobody-sees")
    answer = admin.ask("GET", "settings?q=API_SECRET&limit=1000")
    assert b"nobody-sees" not in answer.body
    row, _ = json.loads(answer.body)["items"]
    assert (row["name"], row["value"]) == ("TXBROKER_API_SECRET", "***")


def test_refusals_are_shown_the_newest_first(admin):
    peer = admin.broker.attach("hpkv", "10.0.0.9")
    peer.deny("read", "a")
    admin.broker.clock.advance(5)
    peer.deny("read", "b")
    page = admin.get("refusals")
    assert [(row["name"], row["code"], row["address"]) for row in page["items"]] == [
        ("b", "DENIED", "10.0.0.9"),
        ("a", "DENIED", "10.0.0.9"),
    ]
    assert page["items"][0]["time"] - page["items"][1]["time"] == 5
    assert page["counts"] == [{"dialect": "hpkv", "code": "DENIED", "count": 2}]


def test_tokens_in_use_are_shown_and_revoked_by_their_ids():
    access = Access("required", keys={"ann": "ann-key"})
    admin = Admin(auth="required", api_keys={"ann": "ann-key"})
    admin.broker = make_broker(access=access, auth="required", api_keys={"ann": "ann-key"})
    admin.api = AdminApi(admin.broker, admin.history)
    minter = admin.broker.attach("hpkv", "127.0.0.1")
    minter.identify("ann-key")
    peer = admin.broker.attach("hpkv", "127.0.0.1")
    do(peer.present(do(minter.mint({}, 100))))
    session = Session(peer)
    peer.bind(session)
    (row,) = admin.rows("tokens")
    assert (row["connections"], row["expires"]) == (1, 100.0)
    do(admin.api.revoke(row["id"]))
    assert session.ended == (4003, "token revoked")
    assert admin.rows("tokens") == []
    assert [found["id"] for found in admin.rows("tokens?state=revoked")] == [row["id"]]


def test_a_kick_disconnects_a_session_or_all_of_a_client(admin):
    one, two, other = admin.client("ann"), admin.client("ann"), admin.client("bob")
    assert admin.post("kick", session=one.peer.id) == (200, {"disconnected": 1})
    assert one.ended == (1001, "disconnected by an operator")
    assert admin.post("kick", client="ann", reason="bye", code=1008) == (200, {"disconnected": 1})
    assert (two.ended, other.ended) == ((1008, "bye"), None)
    assert admin.post("kick", client="ann")[0] == 404
    assert admin.post("kick")[0] == 400
    assert admin.post("kick", client="bob", session=other.peer.id)[0] == 400


def test_an_operator_publishes_and_sees_what_is_stored(admin):
    ann = admin.client()
    ann.peer.subscribe("news")
    status, said = admin.post("publish", topic="news", payload={"a": 1}, durable=True)
    assert (status, said["id"], said["receivers"]) == (200, 1, 1)
    assert ann.events[0].body == b'{"a": 1}'
    status, said = admin.post("peek", topic="news")
    assert said["events"][0]["payload"] == {"a": 1}
    assert admin.post("peek", topic="news", after=1) == (200, {"events": []})


def test_a_peek_shows_jobs_dead_letters_and_keys_and_changes_nothing(admin):
    _dead(admin, count=1)
    do(_awaited(admin.client().peer.add_job("q", b"2")))
    do(_awaited(admin.client().peer.set("k", b"no json")))
    for _ in range(2):
        assert admin.post("peek", queue="q")[1]["jobs"][0]["payload"] == 2
        assert admin.post("peek", queue="q", dead=True)[1]["jobs"][0]["payload"] == {"n": 0}
        assert admin.post("peek", key="k")[1]["text"] == "no json"
    assert admin.post("peek", key="none")[0] == 404
    assert admin.post("peek")[0] == 400
    assert admin.post("peek", topic="a", dead=True)[0] == 400


def test_a_long_body_is_cut(admin):
    do(_awaited(admin.client().peer.set("k", b'"' + b"x" * 100_000 + b'"')))
    said = admin.post("peek", key="k")[1]
    assert (said["bytes"], said["cut"], len(said["text"])) == (100_002, True, 65536)


def test_an_operator_calls_a_procedure(admin):
    ann = admin.client()
    do(ann.peer.perform(["ping"]))
    assert admin.post("call", procedure="ping", args=[1]) == (200, {"ok": True, "result": "pong"})
    ann.answer = CalleeFailed("BROKEN", "it broke")
    status, said = admin.post("call", procedure="ping")
    assert (status, said["ok"], said["error"]["message"]) == (200, False, "it broke")
    assert admin.post("call", procedure="none")[0] == 404
    assert admin.post("call", procedure="ping", args={"a": 1})[0] == 400


def test_drain_and_log_level_reach_the_daemon(admin):
    assert admin.post("drain") == (200, {"draining": True})
    assert admin.post("log-level", level="debug") == (200, {"level": "debug"})
    assert (admin.drained, admin.levels) == (1, ["debug"])
    assert admin.post("log-level", level="loud")[0] == 400
    assert admin.post("drain", now=True)[0] == 400


def test_what_a_daemon_can_not_do_is_said():
    admin = Admin()
    admin.api = AdminApi(admin.broker, admin.history)
    assert admin.post("drain")[0] == 503
    assert admin.post("log-level", level="debug")[0] == 503


@pytest.mark.parametrize("action", sorted(Admin().api.actions))
def test_an_action_is_a_post_of_json_and_is_logged_with_its_outcome(admin, action, logged):
    assert admin.ask("GET", action).status == 405
    assert dict(admin.ask("GET", action).headers)["Allow"] == "POST"
    for media in ({}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}):
        assert admin.ask("POST", action, b"{}", media).status == 415
    answer = admin.ask("POST", action, b'{"nothing":1}')
    assert (answer.status, json.loads(answer.body)["code"]) == (400, "INVALID")
    assert lines_of(logged)[-1] == f"admin: {action} for 127.0.0.1 failed: INVALID"


def test_a_line_of_an_action_has_names_in_one_line_and_no_payload(admin, logged):
    admin.post("publish", topic="a b\u2028c", payload="hidden")
    line = lines_of(logged)[-1]
    assert line == 'admin: publish for 127.0.0.1: topic="a b\\u2028c" id=0 bytes=8'


def test_errors_are_problems(admin):
    answer = admin.ask("GET", "nothing")
    said = json.loads(answer.body)
    assert (answer.status, answer.content_type) == (404, "application/problem+json")
    assert (said["status"], said["title"], said["code"]) == (404, "Not Found", "NOT_FOUND")
    assert said["detail"] == said["error"]["message"] == "Nothing is at /admin/api/nothing."
    assert admin.ask("POST", "sessions", b"{}").status == 405


def test_while_the_store_is_away_that_is_said_to_operators(admin):
    admin.broker.stopService()
    answer = admin.ask("GET", "channels")
    assert (answer.status, json.loads(answer.body)["code"]) == (503, "UNAVAILABLE")


@pytest.fixture(params=["queues", "channels"])
def of_many(request, admin, monkeypatch):
    """The name of a list that asks the store for each of its rows, and what the store fires for each, in turn."""
    peer = admin.client().peer
    do(_awaited(peer.publish("log", "n", b"1", durable=True)))
    do(_awaited(peer.add_job("mail", b"1")))
    waiting: list[Deferred[Any]] = []

    def ask(name):
        waiting.append(Deferred())
        return waiting[-1]

    store = admin.broker.store
    monkeypatch.setattr(*((store.jobs, "state") if request.param == "queues" else (store, "head")), ask)
    return request.param, waiting


def test_an_operator_that_leaves_before_a_list_is_complete_leaves_no_line(admin, of_many, logged):
    name, waiting = of_many
    asked = http_request(admin.broker, admin.api, "GET", f"/admin/api/{name}")
    assert len(waiting) == 1
    asked.addErrback(lambda failure: failure.trap(CancelledError))
    asked.cancel()
    assert lines_of(logged) == []


def test_while_the_store_fails_for_one_row_of_a_list_that_is_said(admin, of_many, logged):
    name, waiting = of_many
    asked = http_request(admin.broker, admin.api, "GET", f"/admin/api/{name}")
    waiting[0].errback(Unavailable("store"))
    assert (value_of(asked).status, lines_of(logged)) == (503, [])


def test_names_that_no_utf_8_has_are_shown(admin):
    admin.client().peer.identity = Identity("user", "\ud800")
    assert admin.rows("sessions")[0]["principal"] == "user:\ud800"


def test_a_sample_has_rates_and_the_history_has_an_end(admin):
    admin.history.startService()
    broker = admin.broker
    broker.metrics.messages_out += 10
    broker.clock.advance(INTERVAL)
    (sample,) = admin.get("history")["items"]
    assert sample["out"] == 10 / INTERVAL
    broker.clock.pump([INTERVAL] * KEPT)
    assert len(admin.history.samples) == KEPT
    admin.history.stopService()
    before = admin.history.samples[-1]
    broker.clock.advance(INTERVAL)
    assert admin.history.samples[-1] == before


def test_the_lag_of_the_slowest_cursor_is_sampled(admin):
    ann = admin.client("ann").peer
    for _ in range(3):
        do(_awaited(ann.publish("log", "n", b"1", durable=True)))
    do(_awaited(admin.broker.channels.move_cursor("ann", "log", 1, stamped=True)))
    admin.history.startService()
    admin.broker.clock.pump([INTERVAL] * 2)
    assert admin.history.samples[-1]["lag"] == 2
    admin.history.stopService()


def test_samples_come_live_until_the_operator_goes(admin):
    admin.history.startService()
    admin.broker.clock.advance(INTERVAL)
    stream = admin.ask("GET", "live").body
    assert stream.take().startswith(b'event: history\ndata: [{"t":')
    admin.broker.clock.advance(INTERVAL)
    assert stream.take().startswith(b'event: sample\ndata: {"t":')
    stream.leave()
    assert not admin.history.listeners
    admin.history.stopService()


def test_there_are_only_so_many_streams(admin):
    streams = [admin.ask("GET", "live").body for _ in range(MAX_STREAMS)]
    answer = admin.ask("GET", "live")
    assert (answer.status, dict(answer.headers)["Retry-After"]) == (429, "1")
    streams[0].leave()
    assert admin.ask("GET", "live").status == 200


def test_many_rows_come_in_order_and_their_pages_have_an_end(admin):
    for number in range(1300):
        admin.client(f"c{number * 7 % 1300:04}")
    page = admin.get("sessions?sort=client&limit=3")
    assert [row["client"] for row in page["items"]] == ["c0000", "c0001", "c0002"]
    page = admin.get("sessions?sort=client&limit=100&after=1250")
    assert [row["client"] for row in page["items"]] == [f"c{number}" for number in range(1250, 1300)]
    assert (page["total"], page["next"]) == (1300, None)
    assert admin.ask("GET", "sessions?after=10001").status == 400


async def _awaited(deferred: Any) -> Any:
    return await deferred


def test_a_request_of_an_operator_is_no_session(admin):
    admin.get("sessions")
    assert admin.rows("sessions") == []


def test_calls_are_counted_at_both_ends(admin):
    ann, bob = admin.client("ann"), admin.client("bob")
    do(ann.peer.perform(["slow"]))
    ann.request = lambda request: None  # type: ignore[method-assign, assignment]
    bob.peer.call("1", Request("", "slow", "", "", b"[]", timeout=5.0))
    rows = {row["client"]: row for row in admin.rows("sessions")}
    assert (rows["ann"]["serving"], rows["bob"]["calling"]) == (1, 1)
