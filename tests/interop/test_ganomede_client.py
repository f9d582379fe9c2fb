"""The npm package ganomede-events 1.5.3, unmodified, under Node against a daemon."""

from __future__ import annotations

import json

import pytest
import pytest_twisted

from tests.support.http_client import get, post

SECRET = "s3cret"


@pytest.fixture(scope="module")
def daemon_environ():
    return {"TXBROKER_PROTOCOLS": "ganomede", "TXBROKER_API_SECRET": SECRET}


class Client:
    """Runs tasks of ganomede_client.js against a daemon."""

    def __init__(self, node, daemon, secret=SECRET):
        self.node, self.words = node, ("ganomede_client.js", str(daemon.port), secret)

    def start(self, task, *words):
        return self.node.start(*self.words, task, *words)

    async def run(self, task, *words):
        return [json.loads(line) for line in await self.node.run(*self.words, task, *words)]


async def said(program, word):
    """Return the next line that begins with *word*, as a list."""
    return json.loads(await program.line(lambda line: line.startswith(f'["{word}"')))


async def publish(daemon, channel, **fields):
    event = {"clientId": "test", "secret": SECRET, "channel": channel, "from": "test", "type": "t", **fields}
    answer = await post(f"{daemon.url}/events/v1/events", event)
    assert answer.status == 200
    return answer.json()["id"]


@pytest_twisted.ensureDeferred
async def test_what_is_sent_is_received(shared_daemon, node):
    lines = await Client(node, shared_daemon).run("roundTrip", "round/trip:ü")
    events = [line[1] for line in lines if line[0] == "event"]
    assert [line[2] for line in lines if line[0] == "event"] == ["round/trip:ü", "round/trip:ü"]
    assert events[0] == {
        "id": 1,
        "timestamp": events[0]["timestamp"],
        "type": "first",
        "from": "svc",
        "data": {"deep": ["✓", None, 1.5]},
    }
    assert events[1] == {"id": 2, "timestamp": events[1]["timestamp"], "type": "last", "from": "svc"}
    assert [line[0] for line in lines].count("refused") == 1


@pytest_twisted.ensureDeferred
async def test_a_new_process_goes_on_where_the_last_one_had_acknowledged(shared_daemon, node):
    client = Client(node, shared_daemon)
    first = client.start("listen", "reader", "resume")
    await said(first, "listening")
    assert [line[1] for line in await client.run("send", "writer", "resume", "3")] == [1, 2, 3]
    ids = []
    while 3 not in ids:
        ids.append((await said(first, "event"))[1]["id"])
    # The request that follows acknowledges: its end is told by a cycle that began after 3.
    await publish(shared_daemon, "resume")
    assert await first.line(lambda line: line == '["cycle",3,4]')
    await first.end()
    await client.run("send", "writer", "resume", "2")

    second = client.start("listen", "reader", "resume")
    again = []
    while 6 not in again:
        again.append((await said(second, "event"))[1]["id"])
    # 4 was received, but perhaps the process ended before it said so.
    assert again in ([4, 5, 6], [5, 6])


@pytest_twisted.ensureDeferred
async def test_an_answer_that_is_sent_page_by_page_is_understood(shared_daemon, node):
    for number in range(20):
        await publish(shared_daemon, "pages", data={"n": number, "text": "x" * 20_000})
    program = Client(node, shared_daemon).start("listen", "c", "pages")
    assert [(await said(program, "event"))[1]["data"]["n"] for _ in range(20)] == list(range(20))
    assert await said(program, "cycle") == ["cycle", None, 20]


@pytest_twisted.ensureDeferred
async def test_cycles_tell_how_far_the_client_is(shared_daemon, node):
    await publish(shared_daemon, "cycles")
    program = Client(node, shared_daemon).start("listen", "c", "cycles")
    assert await said(program, "cycle") == ["cycle", None, 1]
    await publish(shared_daemon, "cycles")
    assert await said(program, "cycle") == ["cycle", 1, 2]


@pytest_twisted.ensureDeferred
async def test_the_client_drains_when_nobody_listens(shared_daemon, node):
    program = Client(node, shared_daemon).start("once", "drains")
    await said(program, "listening")
    await publish(shared_daemon, "drains")
    assert await said(program, "event") == ["event", 1]
    assert await said(program, "drain") == ["drain"]
    assert await program.exit() == 0


@pytest_twisted.ensureDeferred
async def test_a_wrong_secret_is_an_error_401(shared_daemon, node):
    lines = await Client(node, shared_daemon, "wrong").run("refused", "ch")
    assert lines == [["error", 401, "InvalidCredentialsError", "InvalidCredentialsError", "", "ch"]]


@pytest_twisted.ensureDeferred
async def test_latest_events(shared_daemon, node):
    client = Client(node, shared_daemon)
    assert await client.run("latest", "latest") == [[]]
    await client.run("send", "writer", "latest", "5")
    assert await client.run("latest", "latest", "2") == [[4, 5]]
    assert await client.run("latest", "latest") == [[1, 2, 3, 4, 5]]


@pytest_twisted.ensureDeferred
async def test_an_index_is_created_once_and_read(shared_daemon, node):
    for name in ("alice", "bob", "alice"):
        await publish(shared_daemon, "users", data={"username": name})
    ((first, second, result),) = await Client(node, shared_daemon).run(
        "index", "by-user", "users", "data.username", "alice"
    )
    assert (first, second) == ("OK", {})
    assert (result["id"], result["field"], result["value"]) == ("by-user", "data.username", "alice")
    assert [row["id"] for row in result["rows"]] == [3, 1]


@pytest_twisted.ensureDeferred
async def test_a_poll_of_many_seconds_is_no_error(start_daemon, node, soak):
    length = 8 if soak else 2
    # The old name, in milliseconds, of TXBROKER_POLL_TIMEOUT_SECONDS.
    timeout = str(1000 * length)
    daemon = await start_daemon(TXBROKER_PROTOCOLS="ganomede", TXBROKER_API_SECRET=SECRET, POLL_TIMEOUT=timeout)
    ((word, seconds),) = await Client(node, daemon).run("idle", "quiet")
    assert word == "cycle"
    assert seconds >= length


@pytest_twisted.ensureDeferred
async def test_the_client_finds_the_daemon_again_after_a_restart(start_daemon, node):
    daemon = await start_daemon(TXBROKER_PROTOCOLS="ganomede", TXBROKER_API_SECRET=SECRET)
    program = Client(node, daemon).start("listen", "c", "restart")
    await said(program, "listening")
    await publish(daemon, "restart")
    assert (await said(program, "event"))[1]["id"] == 1
    await daemon.restart()
    await publish(daemon, "restart")
    assert (await said(program, "event"))[1]["id"] == 2
    assert (await get(f"{daemon.url}/latest?channel=restart&secret={SECRET}")).json()[1]["id"] == 2
