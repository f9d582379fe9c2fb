"""The ganomede dialect over a socket, through the whole daemon."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.web.client import ResponseNeverReceived

from tests.support.http_client import get, post, request

SECRET = "s3cret"
EVENTS = "/events/v1/events"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
EVENT = {"clientId": "w", "secret": SECRET, "from": "svc/v1", "type": "T"}


@pytest.fixture(scope="module")
def daemon_environ():
    return {"TXBROKER_PROTOCOLS": "ganomede", "TXBROKER_API_SECRET": SECRET, "TXBROKER_ERROR_DELAY_SECONDS": "0.1"}


def url(daemon, path=EVENTS, **fields):
    return f"{daemon.url}{path}?{urlencode({'secret': SECRET, **fields})}"


def publish(daemon, channel, **fields):
    return post(daemon.url + EVENTS, {**EVENT, "channel": channel, **fields})


def poll(daemon, channel, client="c", **fields):
    return get(url(daemon, channel=channel, clientId=client, **fields))


@pytest_twisted.ensureDeferred
async def test_what_reached_a_handler_has_a_request_id(shared_daemon):
    answers = [
        await publish(shared_daemon, "ids"),
        await get(url(shared_daemon, "/latest", channel="ids"), headers={"X-Request-Id": "mine"}),
        await get(shared_daemon.url + "/latest"),
        await get(url(shared_daemon, "/latest")),
        await get(shared_daemon.url + "/events/v1/ping/x"),
    ]
    assert [answer.status for answer in answers] == [200, 200, 401, 400, 200]
    found = [answer.headers["x-request-id"] for answer in answers]
    assert all(UUID.fullmatch(id) for id in found)
    assert len(set(found)) == len(found)


@pytest_twisted.ensureDeferred
async def test_what_reached_no_handler_has_none(shared_daemon):
    malformed: dict[str, Any] = {"body": b"{bad json", "headers": {"Content-Type": "application/json"}}
    answers = [
        await get(shared_daemon.url + "/events/v1/nothing"),
        await request("PUT", shared_daemon.url + EVENTS),
        await request("POST", shared_daemon.url + EVENTS, **malformed),
        await request("POST", shared_daemon.url + EVENTS, body=b" " * (1 << 21)),
    ]
    assert [answer.status for answer in answers] == [404, 405, 400, 413]
    assert not any("x-request-id" in answer.headers for answer in answers)
    assert all(set(answer.json()) == {"code", "message"} for answer in answers)
    assert answers[1].headers["allow"] == "GET, POST"
    assert answers[3].json()["code"] == "RequestEntityTooLarge"


@pytest_twisted.ensureDeferred
async def test_head_has_no_body(shared_daemon):
    ping = await request("HEAD", shared_daemon.url + "/events/v1/ping/x")
    refused = await request("HEAD", shared_daemon.url + EVENTS)
    assert (ping.status, ping.headers["content-length"], ping.body) == (200, "8", b"")
    assert (refused.status, refused.body) == (405, b"")


@pytest_twisted.ensureDeferred
async def test_forms_and_packed_bodies_are_taken(shared_daemon):
    body = urlencode({**EVENT, "channel": "bodies"}).encode()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    packed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    json_body = gzip.compress(json.dumps({**EVENT, "channel": "bodies"}).encode())
    address = shared_daemon.url + EVENTS
    assert (await request("POST", address, body=body, headers=form)).json()["id"] == 1
    assert (await request("POST", address, body=json_body, headers=packed)).json()["id"] == 2


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("coding", ["GZIP", "x-gzip", "identity, Gzip"])
async def test_codings_have_any_case_and_streams_several_members(shared_daemon, coding):
    body = json.dumps({**EVENT, "channel": "members"}).encode()
    packed = gzip.compress(body[:30]) + gzip.compress(body[30:])
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    assert (await request("POST", shared_daemon.url + EVENTS, body=packed, headers=headers)).status == 200


@pytest_twisted.ensureDeferred
async def test_missing_secret_is_challenged(shared_daemon):
    for path in (EVENTS, "/latest", "/events/v1/indices/a/b"):
        answer = await get(shared_daemon.url + path)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Secret realm="ganomede-events"')
        assert answer.json() == {"code": "InvalidCredentialsError", "message": ""}


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("channel", "why"), [("x" * 256, "longer than 255 characters"), ("a\nb", "it has a control character")]
)
async def test_channel_that_can_not_be_one_is_told_why(shared_daemon, channel, why):
    for answer in (await publish(shared_daemon, channel), await poll(shared_daemon, channel)):
        assert (answer.status, answer.json()["message"]) == (400, f"Invalid Channel: {why}")


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(("number", "status"), [("9" * 400, 400), ("-1e309", 400), ("9" * 308, 200), ("1e308", 200)])
async def test_data_has_no_number_that_is_infinite_in_javascript(shared_daemon, number, status):
    said = json.dumps({**EVENT, "channel": "numbers", "data": ["here"]}).replace('"here"', number)
    headers = {"Content-Type": "application/json"}
    answer = await request("POST", shared_daemon.url + EVENTS, body=said.encode(), headers=headers)
    assert answer.status == status
    assert (f'"data":[{number}]' in answer.text) is (status == 200)


@pytest_twisted.ensureDeferred
async def test_ping_goes_by_the_most_specific_range(shared_daemon):
    for accept, status, text in (("application/json;q=0, */*", 200, "pong/x"), ("*/*;q=0", 406, "")):
        answer = await get(shared_daemon.url + "/events/v1/ping/x", headers={"Accept": accept})
        assert (answer.status, answer.text) == (status, text)


@pytest_twisted.ensureDeferred
async def test_about_is_there_under_both_names(shared_daemon):
    for path in ("/about", "/events/v1/about"):
        answer = await get(shared_daemon.url + path)
        assert answer.headers["content-type"] == "application/json; charset=UTF-8"
        assert answer.json()["type"] == "ganomede-events"


@pytest_twisted.ensureDeferred
async def test_two_hundred_waiting_polls_wake_on_one_post(shared_daemon):
    polls = [poll(shared_daemon, "crowd", f"c{n}") for n in range(200)]
    # By now each of them waits or will read what is posted: either way it is answered.
    assert (await publish(shared_daemon, "crowd", data={"n": 1})).status == 200
    answers = await gatherResults(polls)
    assert {answer.body for answer in answers} == {answers[0].body}
    assert [event["data"] for event in answers[0].json()] == [{"n": 1}]


@pytest_twisted.ensureDeferred
async def test_parallel_posters_leave_no_hole(shared_daemon):
    async def write(writer):
        return [(await publish(shared_daemon, "many", data={"w": writer, "n": n})).json()["id"] for n in range(10)]

    async def follow(count):
        found = []
        while len(found) < count:
            after = {"after": found[-1]["id"]} if found else {}
            found += (await poll(shared_daemon, "many", "reader", **after)).json()
        return found

    reader = Deferred.fromCoroutine(follow(320))
    written = await gatherResults([Deferred.fromCoroutine(write(n)) for n in range(32)])
    found = await reader
    assert [event["id"] for event in found] == list(range(1, 321))
    assert sorted(id for ids in written for id in ids) == list(range(1, 321))
    for writer, ids in enumerate(written):
        assert [event["id"] for event in found if event["data"]["w"] == writer] == ids


@pytest_twisted.ensureDeferred
async def test_a_long_answer_comes_whole_page_by_page(shared_daemon):
    for number in range(30):
        assert (await publish(shared_daemon, "long", data={"n": number, "text": "x" * 20_000})).status == 200
    answer = await poll(shared_daemon, "long", limit=25)
    assert [event["data"]["n"] for event in answer.json()] == list(range(25))
    assert [event["id"] for event in (await poll(shared_daemon, "long", after=25)).json()] == [26, 27, 28, 29, 30]


@pytest_twisted.ensureDeferred
async def test_a_client_that_has_gone_waits_no_more(start_daemon):
    daemon = await start_daemon(
        TXBROKER_PROTOCOLS="ganomede",
        TXBROKER_MAX_WAITING_POLLS="1",
        TXBROKER_POLL_TIMEOUT_SECONDS="600",
        TXBROKER_ERROR_DELAY_SECONDS="0",
    )
    await publish(daemon, "busy")

    waiting = poll(daemon, "quiet")
    while (refused := await poll(daemon, "busy")).status != 429:
        # This one needs the only place there is, too, for a moment: the other may have been refused for it.
        if waiting.called:
            waiting = poll(daemon, "quiet")
    assert refused.headers["retry-after"] == "1"
    waiting.cancel()
    while (await poll(daemon, "busy")).status != 200:
        pass
    waiting.addErrback(lambda failure: failure.trap(CancelledError, ResponseNeverReceived))
    await waiting


@pytest_twisted.ensureDeferred
async def test_an_idle_poll_is_answered_at_its_timeout(start_daemon):
    daemon = await start_daemon(TXBROKER_PROTOCOLS="ganomede", POLL_TIMEOUT="300")
    answer = await poll(daemon, "idle")
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"[]", "application/json")


@pytest_twisted.ensureDeferred
async def test_the_line_to_paste_works(start_daemon):
    open_daemon = await start_daemon(TXBROKER_PROTOCOLS="ganomede")
    line = json.loads(await open_daemon.program.line(lambda line: "try ganomede" in line))["line"]
    found = re.fullmatch(r'curl -d "(.*)" (http.*)', line)
    assert found
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await request("POST", found[2], body=found[1].encode(), headers=form)).json()["id"] == 1
    closed_daemon = await start_daemon(TXBROKER_PROTOCOLS="ganomede", TXBROKER_API_SECRET=SECRET)
    assert "&secret=$TXBROKER_API_SECRET&" in await closed_daemon.program.line(lambda line: "try ganomede" in line)


@pytest_twisted.ensureDeferred
async def test_no_secret_reaches_the_log(start_daemon):
    daemon = await start_daemon(
        TXBROKER_PROTOCOLS="ganomede", TXBROKER_API_SECRET=SECRET, TXBROKER_LOG_LEVEL="debug", POLL_TIMEOUT="50"
    )
    await publish(daemon, "quiet")
    await poll(daemon, "quiet", after=77)
    await get(daemon.url + f"/events/v1/nothing?secret={SECRET}")
    await post(daemon.url + EVENTS, {**EVENT, "secret": SECRET + "x"})
    assert any("was the store wiped" in line for line in daemon.output)
    assert not any(SECRET in line for line in daemon.output)
