"""What names an epoch is compared with the present one, by a node that has not reached the store yet, too."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from broker.testing import value_of
from tests.protocols.http_api import STREAM, Api, events_of
from tests.support.peers import attach


class UnawareApi(Api):
    """A node that does not know the present epoch but *known*, after ``forget``, until its store has answered."""

    def __init__(self, known: str) -> None:
        super().__init__()
        self.known = known

    def forget(self) -> None:
        """Be another node than the one that has done what was done so far."""
        self.broker.jobs.leases.forget()
        store: Any = self.broker.store
        present, store.epoch = store.epoch, self.known
        for name in ("head", "revision"):
            setattr(store, name, partial(self._ask, store, present, getattr(store, name)))

    def _ask(self, store: Any, epoch: str, ask: Callable[..., Deferred[int]], *words: str) -> Deferred[int]:
        store.epoch = epoch
        return ask(*words)


@pytest.fixture(params=["", "0123456789abcdef"], ids=["none", "an old one"])
def unaware(request: pytest.FixtureRequest) -> UnawareApi:
    return UnawareApi(request.param)


@pytest.mark.parametrize(("verb", "body"), [("done", ""), ("fail", "{}"), ("extend", '{"seconds":9}')])
def test_a_delivery_of_another_node_is_found(unaware: UnawareApi, verb: str, body: str) -> None:
    unaware.post("/queues/q", "1")
    (job,) = unaware.post("/queues/q/claim").json
    unaware.forget()
    assert unaware.post(f"/queues/q/jobs/{job['id']}/{verb}", body).status == 200


@pytest.mark.parametrize("verb", ["retry", "drop"])
def test_dead_jobs_are_found(unaware: UnawareApi, verb: str) -> None:
    unaware.broker.jobs.leases._delays = ()
    unaware.post("/queues/q", "1")
    (job,) = unaware.post("/queues/q/claim").json
    unaware.post(f"/queues/q/jobs/{job['id']}/fail", "{}")
    (dead,) = unaware.get("/queues/q/dead").json["jobs"]
    unaware.forget()
    assert list(unaware.post(f"/queues/q/dead/{verb}", json.dumps({"ids": [dead["id"]]})).json.values()) == [1]


def test_dead_jobs_after_one_are_listed(unaware: UnawareApi) -> None:
    job = unaware.post("/queues/q", "1").json["id"]
    unaware.forget()
    assert unaware.get(f"/queues/q/dead?after={job}").json == {"jobs": []}


def test_events_after_a_position_are_read(unaware: UnawareApi) -> None:
    first, second = unaware.store("1", "2")
    unaware.forget()
    page = unaware.get(f"/topics/news?after={first['epoch']}-{first['id']}")
    assert [event["id"] for event in page.json["events"]] == [second["id"]]


def test_an_id_without_an_epoch_is_of_the_present_one() -> None:
    api = UnawareApi("")
    first, _ = api.store("1", "2")
    api.forget()
    assert api.get(f"/topics/news?after={first['id']}").status == 200


def test_a_stream_goes_on_where_it_was(unaware: UnawareApi) -> None:
    first, _ = unaware.store("1", "2")
    unaware.forget()
    stream = unaware.listen("/topics/news", {"Last-Event-ID": f"{first['epoch']}-{first['id']}"})
    assert [event.get("event") for event in events_of(stream.take())] == ["news"]  # no gap


def test_a_cursor_is_moved(unaware: UnawareApi) -> None:
    (event,) = unaware.store("1")
    unaware.forget()
    reached = json.dumps({"epoch": event["epoch"], "id": event["id"]})
    assert unaware.ask("PUT", "/cursors/ann/news", reached).status == 200


def test_conditions_are_met(unaware: UnawareApi) -> None:
    (event,) = unaware.store("1")
    tag = unaware.ask("PUT", "/keys/k", "v").headers["ETag"]
    unaware.forget()
    head = {"If-Match": f'"{event["epoch"]}-{event["id"]}"'}
    assert unaware.post("/topics/news?durable=1", "2", head).status == 201
    unaware.forget()
    assert unaware.ask("PUT", "/keys/k", "w", {"If-Match": tag}).status == 200


def test_changes_of_keys_go_on_after_a_revision(unaware: UnawareApi) -> None:
    unaware.get("/keys?prefix=k", STREAM).stream.take()  # somebody watches: changes are kept
    tag = unaware.ask("PUT", "/keys/k", "v").headers["ETag"]
    unaware.ask("PUT", "/keys/k", "w")
    unaware.forget()
    missed = unaware.listen("/keys?prefix=k", {"Last-Event-ID": tag.strip('"')}).take()
    assert [json.loads(event["data"])["value"] for event in events_of(missed)] == ["w"]


def test_the_epoch_of_a_snapshot_is_the_present_one(unaware: UnawareApi) -> None:
    unaware.ask("PUT", "/keys/k", "v")
    epoch = unaware.broker.store.epoch
    unaware.forget()
    (snapshot, *_) = events_of(unaware.listen("/keys?prefix=k").take())
    assert json.loads(snapshot["data"])["epoch"] == epoch


def test_the_present_epoch_is_known_to_a_peer(unaware: UnawareApi) -> None:
    epoch = unaware.broker.store.epoch
    unaware.forget()
    assert value_of(attach(unaware.broker).present_epoch(epoch)) == epoch
