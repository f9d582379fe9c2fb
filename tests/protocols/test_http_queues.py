"""Work queues over the HTTP API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.testing import value_of
from tests.protocols.http_api import Api


@pytest.fixture
def api() -> Api:
    return Api()


def claim(api: Api, query: str = "") -> list[dict[str, Any]]:
    answer = api.post("/queues/q/claim" + query)
    assert answer.status == 200, answer.text
    jobs: list[dict[str, Any]] = answer.json
    return jobs


def settle(api: Api, job: dict[str, Any], what: str, body: str = "") -> int:
    return api.post(f"/queues/q/jobs/{job['id']}/{what}", body).status


def test_a_job_is_stored_claimed_and_done(api: Api) -> None:
    assert api.post("/queues/q", '{"n":1}').status == 201
    (job,) = claim(api)
    assert (job["payload"], job["delivery"], job["lease"], job["queue"]) == ({"n": 1}, 1, 30, "q")
    assert claim(api) == []
    assert api.get("/queues/q").json["in_flight"] == 1
    assert (settle(api, job, "done"), settle(api, job, "done")) == (200, 404)
    assert api.get("/queues/q").json == {"depth": 0, "delayed": 0, "in_flight": 0, "dead": 0, "oldest": 0.0}


@pytest.mark.parametrize(("what", "body"), [("done", ""), ("fail", "{}"), ("extend", '{"seconds":9}'), ("release", "")])
def test_a_job_is_settled_as_one_of_its_queue_only(api: Api, what: str, body: str) -> None:
    api.post("/queues/q", "1")
    (job,) = claim(api)
    assert api.post(f"/queues/another/jobs/{job['id']}/{what}", body).status == 404
    assert api.get("/queues/q").json["in_flight"] == 1
    assert settle(api, job, what, body) == 200


def test_a_job_whose_lease_has_ended_comes_again(api: Api) -> None:
    api.post("/queues/q", "1")
    (first,) = claim(api, "?lease=10")
    api.clock.advance(9)
    assert claim(api) == []
    api.clock.pump([1.0] * 5)
    (again,) = claim(api)
    assert (again["delivery"], again["id"] == first["id"]) == (2, False)
    assert settle(api, first, "done") == 404
    assert settle(api, again, "done") == 200


def test_a_job_can_be_kept_for_longer(api: Api) -> None:
    api.post("/queues/q", "1")
    (job,) = claim(api, "?lease=10")
    assert settle(api, job, "extend", '{"seconds":100}') == 200
    api.clock.pump([10.0] * 9)
    assert claim(api) == []
    assert settle(api, job, "done") == 200


def test_a_job_that_is_given_back_comes_again_at_once_and_that_does_not_count(api: Api) -> None:
    api.post("/queues/q", "1")
    (first,) = claim(api)
    assert settle(api, first, "release") == 200
    for _ in range(7):  # one that has failed so often is dead
        (job,) = claim(api)
        assert job["delivery"] == 1
        assert settle(api, first, "release") == 404
        assert settle(api, job, "release") == 200
    assert api.get("/queues/q").json == {"depth": 1, "delayed": 0, "in_flight": 0, "dead": 0, "oldest": 0.0}


def test_a_refusal_repeats_the_beginning_of_a_long_name(api: Api) -> None:
    refusal = api.post("/queues/q/jobs/x/fail", '{"%s":1}' % ("`" * 100_000))
    assert (refusal.status, len(refusal.json["detail"]) < 5000) == (400, True)
    assert api.post("/queues/q/jobs/x/fail", '{"nope":1}').json["detail"].startswith("body nope: ")


def test_a_job_that_fails_too_often_is_dead_and_can_be_tried_again(api: Api) -> None:
    api.post("/queues/q", "1")
    for _ in range(5):
        (job,) = claim(api)
        assert settle(api, job, "fail", '{"reason":"no","delay":0}') == 200
        api.clock.advance(1)
    (dead,) = api.get("/queues/q/dead").json["jobs"]
    assert (dead["payload"], dead["reason"], dead["deliveries"]) == (1, "no", 5)
    assert api.post("/queues/q/dead/retry", json.dumps({"ids": [dead["id"]]})).json == {"retried": 1}
    assert claim(api)[0]["payload"] == 1
    assert api.post("/queues/q/dead/drop", '{"all":true}').json == {"dropped": 0}
    assert api.post("/queues/q/dead/drop", "{}").status == 400


def test_several_are_claimed_at_once(api: Api) -> None:
    for number in range(4):
        api.post("/queues/q", str(number))
    assert [job["payload"] for job in claim(api, "?max=3")] == [0, 1, 2]
    assert [job["payload"] for job in claim(api, "?max=3")] == [3]


def test_only_jobs_that_match_are_claimed(api: Api) -> None:
    for kind in ("a", "b", "a"):
        api.post("/queues/q", json.dumps({"type": kind}))
    assert [job["payload"] for job in claim(api, "?max=9&filter=%7B%22type%22:%22b%22%7D")] == [{"type": "b"}]
    assert claim(api, "?filter=%7B%22type%22:%22c%22%7D") == []
    assert len(claim(api, "?max=9")) == 2
    assert api.post("/queues/q/claim?filter=x").status == 400


def test_a_claim_waits_for_a_job(api: Api) -> None:
    waiting = api.begin("POST", "/queues/q/claim?wait=30")
    api.clock.advance(20)
    assert not waiting.called
    api.post("/queues/q", "1")
    api.clock.advance(0)
    assert [job["payload"] for job in json.loads(value_of(waiting).body)] == [1]
    late = api.begin("POST", "/queues/q/claim?wait=5")
    api.clock.advance(5)
    assert value_of(late).body == b"[]"


def test_a_client_that_goes_while_it_waits_takes_no_job_with_it(api: Api) -> None:
    waiting = api.begin("POST", "/queues/q/claim?wait=30")
    waiting.addErrback(lambda _: None)
    api.post("/queues/q", "1")
    waiting.cancel()
    assert [job["payload"] for job in claim(api)] == [1]


def test_a_key_makes_one_job_of_several(api: Api) -> None:
    first = api.post("/queues/q?key=k", "1").json
    assert api.post("/queues/q?key=k", "2").json == {"id": first["id"], "duplicate": True}
    assert api.post("/queues/q", "3", {"Idempotency-Key": "k"}).json["duplicate"] is True


def test_a_delayed_job_comes_later(api: Api) -> None:
    api.post("/queues/q?delay=10", "1")
    assert claim(api) == []
    api.clock.advance(11)
    assert [job["payload"] for job in claim(api)] == [1]


def test_jobs_of_one_order_go_one_at_a_time(api: Api) -> None:
    api.post("/queues/q?order=o", "1")
    api.post("/queues/q?order=o", "2")
    (first,) = claim(api, "?max=9")
    settle(api, first, "done")
    assert [job["payload"] for job in claim(api, "?max=9")] == [2]


@pytest.mark.parametrize("what", ["done", "release"])
def test_a_job_is_settled_by_the_principal_that_has_it(what: str) -> None:
    api = Api(api_secret="s", api_keys={"ann": "a" * 20, "bob": "b" * 20})
    ann, bob = ({"Authorization": f"Bearer {key * 20}"} for key in "ab")
    assert api.post("/queues/q", "1").status == 401
    api.post("/queues/q", "1", ann)
    (job,) = api.post("/queues/q/claim", headers=ann).json
    path = f"/queues/q/jobs/{job['id']}/{what}"
    assert (api.post(path, headers=bob).status, api.post(path, headers=ann).status) == (404, 200)


@pytest.mark.parametrize(
    "path", ["/queues/q.dead", "/queues/q?dealy=1", "/queues/q?delay=-1", "/queues/q?ttl=0", "/queues/q?key="]
)
def test_a_job_that_can_not_be_is_refused(api: Api, path: str) -> None:
    assert api.post(path, "1").status in (400, 403)
    assert api.post("/queues/q", "").status == 400


def test_claims_that_wait_are_bounded() -> None:
    api = Api(max_waiting_polls=2, max_waiting_polls_per_client=1)
    waiting = api.begin("POST", "/queues/q/claim?wait=10")
    assert api.post("/queues/q/claim?wait=10").status == 429
    assert claim(api) == []
    waiting.addErrback(lambda failure: None).cancel()
    waiting = api.begin("POST", "/queues/q/claim?wait=10")
    api.clock.advance(10)
    assert value_of(waiting).status == 200
    assert api.broker.channels.waiting == 0


def test_jobs_in_flight_of_workers_without_a_session_are_bounded(monkeypatch: pytest.MonkeyPatch, api: Api) -> None:
    monkeypatch.setattr("broker.peer.jobs.MAX_UNATTENDED_OF_ONE", 2)
    for number in range(3):
        api.post("/queues/q", str(number))
    job, _ = claim(api, "?max=2")
    assert api.post("/queues/q/claim").status == 429
    assert settle(api, job, "done") == 200
    assert len(claim(api)) == 1
