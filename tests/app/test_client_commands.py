"""The commands for application developers, against a broker."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor

from broker.client.asyncio import Client
from tests.support.daemon import Daemon
from tests.support.developer import SECRET, Developer
from tests.support.eventually import TIMEOUT, eventually
from tests.support.processes import Program

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def daemon_environ() -> dict[str, str]:
    return {"TXBROKER_API_SECRET": SECRET}


@pytest_twisted.async_yield_fixture
async def give(shared_daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Developer]:
    """The commands, with the broker of all tests of this module."""
    developer = Developer(shared_daemon, monkeypatch)
    yield developer
    for program in developer.programs:
        await program.end()


@pytest_twisted.ensureDeferred
async def test_an_event_is_published_and_read(give: Developer) -> None:
    first = await give.json("publish", "news", '{"n":1}', "--durable")
    assert (first["id"], first["duplicate"]) == (1, False)
    await give.json("publish", "news", "-", "--key", "two", "--name", "made", text="hello\n")
    again = await give.json("publish", "news", "other", "--key", "two")
    assert (again["id"], again["duplicate"]) == (2, True)
    assert await give.lines("publish", "news", "2", "--expect", "2", "--text") == [f"stored as {first['epoch']}:3"]
    assert await give.lines("publish", "news", "live") == ["delivered to 0"]
    found = [json.loads(line) for line in await give.lines("read", "news", "--json")]
    assert [event["payload"] for event in found] == [{"n": 1}, "hello", "2"]
    assert (found[1]["name"], found[1]["epoch"]) == ("made", first["epoch"])


@pytest_twisted.ensureDeferred
async def test_stored_events_are_read_in_parts(give: Developer) -> None:
    for number in range(5):
        await give.lines("publish", "parts", str(number), "--durable")
    status, said, errors = await give("read", "parts", "--limit", "2", "--json")
    epoch = json.loads(said.splitlines()[0])["epoch"]
    assert (status, len(said.splitlines())) == (0, 2)
    assert errors == f"txbroker: there are more, after {epoch}:2; see --after and --limit\n"

    async def payloads(*words: str) -> list[str]:
        return [line.split("  ")[-1] for line in await give.lines("read", "parts", *words)]

    assert await payloads("--after", f"{epoch}:3") == ["3", "4"]
    assert await payloads("--before", "3") == ["0", "1"]
    assert await payloads("--last", "1") == ["4"]
    status, _, errors = await give("read", "parts", "--after", "other:1")
    assert (status, errors.startswith("txbroker: GONE: ")) == (1, True)


@pytest_twisted.ensureDeferred
async def test_each_line_of_the_input_is_an_event(give: Developer, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_text("".join(f'{{"n":{number}}}\n' for number in range(250)) + "last")
    with lines.open() as file:
        give.monkeypatch.setattr(io, "TextIOWrapper", lambda _: file)
        assert len(await give.lines("publish", "many", "--lines", "--durable")) == 251
    found = await give.lines("read", "many", "--limit", "1000", "--json")
    assert [json.loads(line)["payload"] for line in found] == [*({"n": number} for number in range(250)), "last"]


@pytest_twisted.ensureDeferred
async def test_the_lines_before_one_that_is_no_text_are_published(give: Developer, tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"1\n2\n\xff\n3\n")
    with (tmp_path / "lines").open() as file:
        give.monkeypatch.setattr(io, "TextIOWrapper", lambda _: file)
        status, said, errors = await give("publish", "begun", "--lines", "--durable")
    assert (status, len(said.splitlines()), errors.count("\n")) == (2, 2, 1)
    assert errors.startswith("txbroker: line 3 of standard input is no UTF-8")
    found = await give.lines("read", "begun", "--json")
    assert [json.loads(line)["payload"] for line in found] == [1, 2]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest_twisted.ensureDeferred
async def test_standard_streams_that_are_closed_take_no_place_of_a_connection(
    give: Developer, tmp_path: Path, closed: str
) -> None:
    topic = "closed." + "".join(str(ord(character)) for character in closed)
    told = tmp_path / "told"
    # What the command prints would go into the connection.
    words = f"{Path(sys.executable).with_name('txbroker')} work {topic} --count 1 --retry-after 1h --json --"
    command = f"{words} 'cat; echo printed; echo told >&2; exit 1' {closed}; echo $? >{told}"
    await give.lines("enqueue", topic, "1")
    give.start_program("/bin/sh", "-c", command)
    await eventually(lambda: told.exists() and told.read_text().strip())
    assert told.read_text() == "0\n"
    assert (await give.json("call", "broker.queue", topic))["delayed"] == 1


@pytest_twisted.ensureDeferred
async def test_what_the_broker_refuses_is_one_line_with_its_code(give: Developer) -> None:
    await give.lines("publish", "refused", "1", "--durable")
    assert await give("publish", "refused", "2", "--expect", "0") == (
        1,
        "",
        "txbroker: CONFLICT: socket:message:conflict:1\n",
    )
    status, said, errors = await give("call", "nothing.here")
    assert (status, said, errors.startswith("txbroker: NOT_FOUND: ")) == (1, "", True)
    status, said, errors = await give("publish", "broker.x", "1")
    assert (status, said, errors.count("\n")) == (1, "", 1)


@pytest_twisted.ensureDeferred
async def test_a_wrong_credential_is_told_at_once(give: Developer) -> None:
    status, said, errors = await give("publish", "t", "1", "--timeout", "1h", TXBROKER_CREDENTIAL="wrong")
    assert (status, said, errors.startswith("txbroker: UNAUTHENTICATED: the broker does not accept")) == (1, "", True)
    assert "wrong" not in errors
    status, said, errors = await give("publish", "t", "1", TXBROKER_CREDENTIAL="")
    assert (status, errors.startswith("txbroker: UNAUTHENTICATED: the broker wants a credential")) == (1, True)


@pytest_twisted.ensureDeferred
async def test_a_broker_that_is_not_there_is_told_after_the_timeout(give: Developer) -> None:
    url = "http://127.0.0.1:1"
    for words in (["publish", "t", "1"], ["call", "m"], ["kv", "get", "k"]):
        status, said, errors = await give(*words, "--url", url, "--timeout", "0.2")
        assert (status, said) == (1, "")
        assert errors.startswith("txbroker: NOT_CONNECTED: no connection to ws://127.0.0.1:1/v1/ws within 0.2 s")
        assert errors.count("\n") == 1


@pytest_twisted.ensureDeferred
async def test_keys_are_written_and_read(give: Developer) -> None:
    (line,) = await give.lines("kv", "set", "k:a", "5", "--ttl", "1h")
    assert re.fullmatch(r"revision \d+", line)
    assert await give.lines("kv", "increment", "k:a", "-2.5") == ["2.5"]
    assert await give.lines("kv", "increment", "k:a") == ["3.5"]
    assert (await give.json("kv", "get", "k:a"))["value"] == "3.5"
    await give.lines("kv", "set", "k:b", "-", "--revision", "0", text='{"a":1}\n')
    assert await give.lines("kv", "patch", "k:b", '{"b":2}') == ['{"a":1,"b":2}']
    assert await give.lines("kv", "range", "k:a", "k:z") == ["k:a  3.5", 'k:b  {"a":1,"b":2}']
    status, _, errors = await give("kv", "set", "k:b", "x", "--revision", "99")
    assert (status, errors.startswith("txbroker: CONFLICT: ")) == (1, True)
    assert await give.json("kv", "delete", "k:a") == {"key": "k:a", "deleted": True}
    assert await give.lines("kv", "delete", "k:a") == ["there was no such key"]
    assert await give("kv", "get", "k:a") == (1, "", "txbroker: NOT_FOUND: there is no key k:a\n")


@pytest_twisted.ensureDeferred
async def test_changes_of_keys_are_shown_until_it_is_terminated(give: Developer) -> None:
    await give.lines("kv", "set", "w:1", "old")
    watch = give.start("kv", "watch", "w:*", "--previous", "--json")
    assert json.loads(await watch.line())["kind"] == "present"
    await give.lines("kv", "set", "w:1", "new")
    change = json.loads(await watch.line())
    assert (change["key"], change["value"], change["previous"]) == ("w:1", "new", "old")
    watch.signal(signal.SIGTERM)
    assert await watch.exit() == 0


@pytest_twisted.ensureDeferred
async def test_a_command_performs_calls(give: Developer) -> None:
    upper = give.start("serve", "text.upper", "--", "tr", "a-z", "A-Z")
    failing = give.start("serve", "text.fail", "--json", "--", "cat >/dev/null; echo no such luck >&2; exit 7")
    await upper.line()
    await failing.line()
    assert await give.lines("call", "text.upper", "hello") == ["HELLO"]
    assert await give.json("call", "text.upper", '{"a":"b"}') == {"A": "B"}
    assert await give.json("call", "text.upper", "a", "-", text="2") == ["A", 2]
    assert await give("call", "text.fail", "1") == (1, "", "txbroker: CommandFailed: no such luck\n")
    told = json.loads(await failing.line(lambda line: line.startswith("{")))
    assert (told["method"], told["outcome"]) == ("text.fail", "failed")
    upper.signal(signal.SIGTERM)
    assert await upper.exit() == 0
    status, _, errors = await give("call", "text.upper", "hello")
    assert (status, errors.startswith("txbroker: NOT_FOUND")) == (1, True)


@pytest_twisted.ensureDeferred
async def test_the_deadline_of_a_caller_ends_all_processes_of_the_command(give: Developer, tmp_path: Path) -> None:
    begun = tmp_path / "pid"
    slow = give.start("serve", "slow", "--", f"sleep 1000 & echo $! >{begun}; echo ready >&2; wait")
    await slow.line()
    while not (begun.exists() and begun.read_text()):  # on a busy machine one may end before the command has begun
        status, _, errors = await give("call", "slow", "--timeout", "1")
        assert (status, errors.startswith("txbroker: TIMEOUT")) == (1, True)
    pid = int(begun.read_text())
    await eventually(lambda: not Path(f"/proc/{pid}/cwd").exists())
    second = give.start("serve", "slow", "--", "true")
    assert await second.exit() == 1
    assert second.lines[-1].startswith("txbroker: TAKEN: ")
    slow.signal(signal.SIGINT)
    assert await slow.exit() == 130


@pytest_twisted.ensureDeferred
async def test_a_command_does_jobs_and_its_status_decides(give: Developer) -> None:
    await give.lines("enqueue", "letters", '{"to":"ann"}')
    await give.lines("enqueue", "letters", "fail", "--key", "two")
    assert (await give.json("enqueue", "letters", "again", "--key", "two"))["duplicate"]
    command = 'payload=$(cat); echo "$TXBROKER_QUEUE $TXBROKER_JOB_DELIVERY $payload" >&2; [ "$payload" != \\"fail\\" ]'
    work = give.start("work", "letters", "--json", "--retry-after", "1h", "--count", "2", "--", command)
    assert await work.exit() == 0
    assert 'letters 1 {"to":"ann"}' in work.lines
    told = [json.loads(line) for line in work.lines if line.startswith("{")]
    assert [(each["outcome"], each.get("reason")) for each in told] == [("done", None), ("failed", 'letters 1 "fail"')]
    assert (await give.json("call", "broker.queue", "letters"))["delayed"] == 1


@pytest_twisted.ensureDeferred
async def test_a_terminated_worker_finishes_its_job_and_gives_the_others_back(give: Developer, tmp_path: Path) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    for number in range(3):
        await give.lines("enqueue", "rest", str(number))
    command = f"cat >{begun}; until [ -e {go} ]; do sleep 0.1; done"
    work = give.start("work", "rest", "--prefetch", "3", "--json", "--", command)
    await eventually(begun.exists)
    work.signal(signal.SIGTERM)
    await eventually_state(give, "rest", depth=2, in_flight=1)
    go.touch()
    assert await work.exit() == 0
    assert [json.loads(line)["outcome"] for line in work.lines] == ["done"]
    await eventually_state(give, "rest", depth=2, in_flight=0)


@pytest_twisted.ensureDeferred
async def test_a_job_that_was_never_begun_does_not_die_of_workers_that_are_terminated(
    give: Developer, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    await give.lines("enqueue", "patient", "first")
    for number in range(6):
        begun = tmp_path / f"begun{number}"
        await give.lines("enqueue", "patient", "next")
        command = f"cat; echo $TXBROKER_JOB_DELIVERY >{begun}; until [ -e {go}{number} ]; do sleep 0.1; done"
        work = give.start("work", "patient", "--prefetch", "2", "--json", "--", command)
        await eventually(begun.exists)
        await eventually_state(give, "patient", depth=0, in_flight=2)
        work.signal(signal.SIGTERM)
        await eventually_state(give, "patient", depth=1, in_flight=1)
        Path(f"{go}{number}").touch()
        assert await work.exit() == 0
        assert json.loads(work.lines[-1])["delivery"] == 1
    await eventually_state(give, "patient", depth=1, delayed=0, in_flight=0, dead=0)


async def eventually_state(give: Developer, queue: str, **wanted: int) -> None:
    end = reactor.seconds() + TIMEOUT
    while True:
        state = await give.json("call", "broker.queue", queue)
        if {name: state[name] for name in wanted} == wanted:
            return
        assert reactor.seconds() < end, state


@pytest_twisted.ensureDeferred
async def test_an_interrupted_worker_gives_all_jobs_back(give: Developer, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    await give.lines("enqueue", "stop", "1")
    work = give.start("work", "stop", "--", f"echo $$ >{begun}; sleep 1000")
    await eventually(begun.exists)
    work.signal(signal.SIGINT)
    assert await work.exit() == 130
    assert work.lines == []
    await eventually_state(give, "stop", depth=1, in_flight=0)
    again = give.start("work", "stop", "--count", "1", "--json", "--", "true")
    assert await again.exit() == 0
    assert json.loads(again.lines[-1])["delivery"] == 1
    assert not Path(f"/proc/{int(begun.read_text())}/cwd").exists()


@pytest_twisted.ensureDeferred
async def test_dead_jobs_are_listed_requeued_and_dropped(give: Developer) -> None:
    for number in range(2):
        await give.lines("enqueue", "grave", str(number))
    work = give.start("work", "grave", "--retry-after", "0.001", "--count", "10", "--", "echo why >&2; exit 1")
    assert await work.exit() == 0
    dead = [json.loads(line) for line in await give.lines("dead", "list", "grave", "--json")]
    assert sorted((job["payload"], job["deliveries"], job["reason"]) for job in dead) == [(0, 5, "why"), (1, 5, "why")]
    assert await give.json("dead", "requeue", "grave", dead[0]["id"]) == {"requeued": 1}
    (line,) = await give.lines("dead", "list", "grave")
    assert line.endswith(f"5 deliveries  {dead[1]['payload']}  why")
    assert await give.lines("dead", "drop", "grave", "--all") == ["dropped: 1"]
    assert await give.lines("dead", "list", "grave") == []


@pytest_twisted.ensureDeferred
async def test_dead_jobs_that_can_not_be_read_are_one_line(give: Developer, monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in (None, "x", {"jobs": [{}]}):
        monkeypatch.setattr(Client, "call", lambda *_, answer=answer: asyncio.sleep(0, answer))
        status, said, errors = await give("dead", "list", "grave")
        assert (status, said, errors.count("\n")) == (1, "", 1)
        assert errors.startswith("txbroker: INTERNAL: an answer can not be read: ")


@pytest_twisted.ensureDeferred
async def test_a_pattern_is_followed_from_the_start(give: Developer) -> None:
    await give.lines("publish", "p.a", "1", "--durable")
    await give.lines("publish", "p.b", "2", "--durable")
    tail = give.start("tail", "p.*", "--from", "start", "--count", "2")
    assert await tail.exit() == 0
    assert sorted(line.split("  ")[1::2] for line in tail.lines) == [["p.a", "1"], ["p.b", "2"]]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("topic", "why"),
    [
        ("beyond", "the newest event of beyond is 1"),
        ("beyond.nothing", "beyond.nothing has no stored events"),
        ("beyond.*", "beyond.* is a pattern, and an id is a place in one topic"),
    ],
)
async def test_why_it_can_not_be_followed_from_there_is_told(give: Developer, topic: str, why: str) -> None:
    await give.lines("publish", "beyond", "1", "--durable", "--key", "one")
    tail = give.start("tail", topic, "--from", "99")
    assert await tail.exit() == 1
    assert tail.lines == [f"txbroker: INVALID: --from 99: {why}"]


@pytest_twisted.ensureDeferred
async def test_nobody_who_reads_any_more_is_no_error(give: Developer) -> None:
    for number in range(2):
        await give.lines("publish", "pipe", str(number), "--durable")
    program = Path(sys.executable).with_name("txbroker")
    line = f"{program} tail pipe --from start | head -1"
    pipe = Program.start(["/bin/sh", "-c", line], env={**os.environ, **give.environ()}, cwd=give.daemon.directory)
    give.programs.append(pipe)
    await pipe.line()
    await give.lines("publish", "pipe", "2", "--durable")
    assert await pipe.exit() == 0
    assert len(pipe.lines) == 1


@pytest_twisted.ensureDeferred
async def test_followers_and_workers_come_back_after_a_restart(give: Developer, tmp_path: Path) -> None:
    daemon, done = give.daemon, tmp_path / "done"
    tail = give.start("tail", "log", "--json", "--cursor", "me")
    work = give.start("work", "restart", "--", f"cat >>{done}; echo >>{done}; echo worked")
    await give.lines("publish", "log", "1", "--durable")
    await give.lines("enqueue", "restart", "1")
    assert json.loads(await tail.line())["payload"] == 1
    await work.line()
    await daemon.stop()
    await tail.line(lambda line: "is lost" in line)
    await work.line(lambda line: "is lost" in line)
    await daemon.restart()
    await give.lines("publish", "log", "2", "--durable")
    await give.lines("enqueue", "restart", "2")
    assert json.loads(await tail.line(lambda line: line.startswith("{")))["payload"] == 2
    await work.line(lambda line: line == "worked")
    assert done.read_text().split() == ["1", "2"]
    for program in (tail, work):
        program.signal(signal.SIGTERM)
        assert await program.exit() == 0
        assert [line for line in program.lines if "Traceback" in line] == []
    await give.lines("publish", "log", "3", "--durable")
    again = give.start("tail", "log", "--json", "--cursor", "me", "--count", "1")
    assert await again.exit() == 0
    assert json.loads(again.lines[-1])["payload"] == 3
