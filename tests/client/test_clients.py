"""Both drivers of the Python client against a daemon, by the same scenarios."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, inlineCallbacks

from broker.client import (
    CallFailed,
    Cancelled,
    Closed,
    Conflict,
    ConnectionLost,
    Denied,
    Draft,
    Gone,
    Invalid,
    NotConnected,
    NotFound,
    Taken,
    Timeout,
    TooLarge,
    Unauthenticated,
)
from broker.client.asyncio_polling import PollingClient as AsyncioPolling
from broker.client.twisted import Client as TwistedClient
from broker.client.twisted import next_of
from broker.client.twisted_polling import PollingClient as TwistedPolling
from tests.support.both_clients import LIBRARIES, Library
from tests.support.proxy import Proxy

POLLING = {"twisted": TwistedPolling, "asyncio": AsyncioPolling}
SECRET = "a-secret-of-the-client-tests"
FAST = {"first_wait": 0.01, "max_wait": 0.1}
pytestmark = [pytest.mark.unmeasured, pytest.mark.alone]


@pytest.fixture(scope="module")
def daemon_environ() -> dict[str, str]:
    return {
        "TXBROKER_API_KEYS": f"bob:{SECRET}",
        "TXBROKER_API_SECRET": SECRET + "-shared",
        "TXBROKER_POLL_TIMEOUT_SECONDS": "0.2",
    }


@pytest.fixture(params=sorted(LIBRARIES))
def library(request: pytest.FixtureRequest) -> Library:
    return LIBRARIES[request.param]


def client(library: Library, daemon: Any, token: Any = SECRET + "-shared", **settings: Any) -> Any:
    return library.client(daemon.ws("/v1/ws"), token=token, **{**FAST, **settings})


@pytest_twisted.ensureDeferred
async def test_calls(shared_daemon: Any, library: Library) -> None:
    name = f"calls.{library.name}"

    async def scenario(library: Library) -> None:
        async with client(library, shared_daemon) as server, client(library, shared_daemon) as caller:
            entered, late = [], []

            @server.serve(f"{name}.add")
            def add(one: int, other: int) -> int:
                return one + other

            @server.serve(f"{name}.wait")
            async def wait(seconds: float) -> str:
                entered.append(seconds)
                await library.sleep(seconds)
                return "waited"

            @server.serve(f"{name}.fail")
            async def fail(code: str) -> None:
                raise CallFailed("no", code) if code else ValueError("bad")

            await server.settled()
            assert await caller.call(f"{name}.add", 2, 3) == 5
            assert await library.gather(*(caller.call(f"{name}.add", n, n) for n in range(20))) == [
                2 * n for n in range(20)
            ]
            for call, error, code in (
                (caller.call(f"{name}.fail", ""), CallFailed, "ResilientError"),
                (caller.call(f"{name}.fail", "OutOfStock"), CallFailed, "OutOfStock"),
                (caller.call(f"{name}.add"), CallFailed, "ResilientError"),
                (caller.call(f"{name}.nothing"), NotFound, "NOT_FOUND"),
                (caller.call(f"{name}.add", recipient="nobody"), Gone, "GONE"),
                (caller.call(f"{name}.wait", 0.1, timeout=0.05), Timeout, "TIMEOUT"),
            ):
                with pytest.raises(error) as caught:
                    await call
                assert caught.value.code == code
            with pytest.raises(Timeout):
                await caller.call(f"{name}.wait", 0.1, timeout=0.01, on_late=late.append)
            await library.until(lambda: late)
            slow = caller.call(f"{name}.wait", 30)
            await library.until(lambda: len(entered) == 3)
            slow.cancel()
            with pytest.raises((Cancelled, asyncio.CancelledError)):
                await slow
            await library.until(lambda: not server._core.procedures.under_way)
            server.withdraw(f"{name}.add")
            for each, other in ((server, "nothing"), (caller, "add")):  # the first answer comes behind the withdrawal
                with pytest.raises(NotFound):
                    await each.call(f"{name}.{other}", 1, 1)
            with pytest.raises(Taken):
                server.serve(f"{name}.fail")(fail)

    await library.run(scenario, 20.0)


@pytest_twisted.ensureDeferred
async def test_topics(shared_daemon: Any, library: Library) -> None:
    topic = f"topics.{library.name}"

    async def scenario(library: Library) -> None:
        async with client(library, shared_daemon, name=topic) as one, client(library, shared_daemon) as other:
            called: list[Any] = []
            events = other.subscribe(topic, from_="start")
            live = other.subscribe(f"{topic}.*", called.append)
            await library.gather(events.ready(), live.ready())
            first = await one.publish(topic, {"n": 1}, durable=True, key="k", name="made")
            again = await one.publish(topic, {"n": 1}, durable=True, key="k", name="made")
            assert (first.id, again.id, again.duplicate) == (1, 1, True)
            stored = await one.batch([Draft(topic=topic, payload=n, key=f"b{n}") for n in range(2)])
            assert [each.id for each in stored] == [2, 3]
            with pytest.raises(Conflict) as caught:
                await one.publish(topic, 0, durable=True, expect=1)
            assert caught.value.head == 3
            await one.publish(topic, b"\0\1", durable=True, content_type="application/x-test")
            found = [await events.__anext__() for _ in range(4)]
            assert [each.payload for each in found] == [{"n": 1}, 0, 1, b"\0\1"]
            assert (found[0].name, found[0].sender, found[3].content_type) == ("made", topic, "application/x-test")
            assert events.position == found[3].position
            page = await other.read(topic, after=2)
            assert ([each.payload for each in page.events], page.head) == ([1, b"\0\1"], 4)
            assert (await one.publish(f"{topic}.live", "x")).delivered == 1
            await library.until(lambda: called)
            assert (called[0].topic, called[0].payload) == (f"{topic}.live", "x")
            cursor = f"c-{library.name}"
            assert not (await other.ack(cursor, topic, found[1].position)).back
            assert [(each.cursor, each.lag) for each in await other.cursors(topic)] == [(cursor, 2)]
            async with other.subscribe(f"{topic}.chat", presence={"nick": "Ann"}) as chat:
                await chat.ready()
                assert [member.info for member in await one.members(f"{topic}.chat")] == [{"nick": "Ann"}]
            with pytest.raises(Invalid):
                other.subscribe("x", from_="nonsense")
            events.close()
            assert [event async for event in events] == []

    await library.run(scenario, 20.0)


@pytest_twisted.ensureDeferred
async def test_jobs(shared_daemon: Any, library: Library) -> None:
    queue = f"jobs.{library.name}"

    async def scenario(library: Library) -> None:
        async with client(library, shared_daemon) as boss, client(library, shared_daemon) as worker:
            told: list[Any] = []
            worker.on("job-failed", told.append)
            assert not (await boss.enqueue(queue, 1, key="a")).duplicate
            assert (await boss.enqueue(queue, 1, key="a")).duplicate
            await boss.enqueue(queue, 2)
            done = []
            jobs = worker.consume(queue, lease=5.0)
            async for job in jobs:
                async with job:
                    if job.delivery == 1 and job.payload == 2:
                        await job.fail("not yet", 0.0)
                        continue
                    done.append((job.payload, job.delivery))
                if len(done) == 2:
                    break
            assert done == [(1, 1), (2, 2)]
            await boss.enqueue(queue, 3)
            async for job in jobs:
                async with job:
                    raise ValueError("bad job")
                break
            assert [str(notice.error) for notice in told] == ["bad job"]
            state = await boss.queue(queue)
            assert (state.depth, state.delayed, state.in_flight) == (0, 1, 0)
            jobs.close()
            by_callback: list[Any] = []

            async def work(job: Any) -> None:
                await library.sleep(0)
                by_callback.append(job.payload)

            worker.consume(f"{queue}.more", work, prefetch=3)
            await library.gather(*(boss.enqueue(f"{queue}.more", n) for n in range(7)))
            await library.until(lambda: len(by_callback) == 7)
            assert sorted(by_callback) == list(range(7))

    await library.run(scenario, 20.0)


@pytest_twisted.ensureDeferred
async def test_a_job_whose_block_is_cancelled_goes_back_and_that_does_not_count(
    shared_daemon: Any, library: Library
) -> None:
    queue = f"stopped.{library.name}"

    async def scenario(library: Library) -> None:
        begun: list[int] = []

        async def work() -> None:
            async with client(library, shared_daemon) as worker:
                async for job in worker.consume(queue, lease=1000.0):
                    async with job:
                        begun.append(job.delivery)
                        await library.sleep(1000.0)

        async with client(library, shared_daemon) as boss:
            await boss.enqueue(queue, 1)
            for _ in range(7):  # one that has failed so often is dead
                begun.clear()
                working = library.start(work())
                await library.until(lambda: begun)
                assert begun == [1]
                working.cancel()
                with pytest.raises((asyncio.CancelledError, CancelledError)):
                    await working
            async for job in boss.consume(queue):
                await job.done()
                break
            assert job.delivery == 1

    await library.run(scenario, 20.0)


@pytest_twisted.ensureDeferred
async def test_keys(shared_daemon: Any, library: Library) -> None:
    name = f"keys.{library.name}"

    async def scenario(library: Library) -> None:
        async with client(library, shared_daemon) as one, client(library, shared_daemon) as other:
            assert (await one.get(f"{name}.none")).value is None
            first = await one.set(f"{name}.a", "1")
            changes = other.watch(f"{name}.*", previous=True)
            assert (await changes.__anext__()).kind == "present"
            with pytest.raises(Conflict):
                await one.set(f"{name}.a", "2", revision=0)
            await one.set(f"{name}.a", "2", revision=first.revision)
            assert (await one.increment(f"{name}.n", 5)).value == "5"
            assert (await one.patch(f"{name}.a", "!")).value == "2!"
            assert await one.delete(f"{name}.a")
            found = [await changes.__anext__() for _ in range(4)]
            assert [(each.value, each.previous) for each in found] == [
                ("2", "1"),
                ("5", None),
                ("2!", "2"),
                (None, "2!"),
            ]
            assert [entry.key for entry in await one.range(f"{name}.", f"{name}.z")] == [f"{name}.n"]

    await library.run(scenario, 20.0)


@pytest_twisted.ensureDeferred
async def test_requests_are_answered_by_streams(shared_daemon: Any, library: Library) -> None:
    action = f"count.{library.name}"

    async def scenario(library: Library) -> None:
        async with client(library, shared_daemon) as server, client(library, shared_daemon) as asker:

            @server.respond(action)
            async def count(payload: Any) -> Any:
                for number in range(payload["to"]):
                    yield number
                raise ValueError("no more")

            await server.settled()
            ask = {"action": action, "to": 3}
            assert [reply async for reply in asker.request(ask, replies=3)] == [0, 1, 2]
            replies = asker.request(ask)
            assert [await replies.__anext__() for _ in range(3)] == [0, 1, 2]
            with pytest.raises(CallFailed, match="no more"):
                await replies.__anext__()
            with pytest.raises(NotFound):
                await asker.request({"action": "nobody takes it"}).__anext__()

    await library.run(scenario, 20.0)


@pytest_twisted.ensureDeferred
async def test_credentials(shared_daemon: Any, library: Library) -> None:
    async def scenario(library: Library) -> None:
        async with client(library, shared_daemon, token=SECRET) as bob:
            assert (bob.id, (await bob.whoami()).stage) == ("bob", "authenticated")
            await bob.refresh(SECRET)
            with pytest.raises(Unauthenticated):
                await bob.refresh("wrong")
        wrong = client(library, shared_daemon, token="wrong")
        with pytest.raises(Unauthenticated):
            await wrong.connect()
        assert wrong.state == "stopped"
        tokens = iter(["wrong", SECRET])

        async def token() -> str:
            await library.sleep(0)
            return next(tokens)

        async with client(library, shared_daemon, token=token) as second:
            assert second.id == "bob"
        with pytest.raises(Denied):
            await client(library, shared_daemon, token=SECRET, name="alice").connect()

    await library.run(scenario, 20.0)


@pytest_twisted.ensureDeferred
async def test_limits_of_the_client(shared_daemon: Any, library: Library) -> None:
    async def scenario(library: Library) -> None:
        one = client(library, shared_daemon, wait=False, max_attempts=1)
        with pytest.raises(NotConnected):
            await one.get("k")
        await one.connect()
        with pytest.raises(TooLarge):
            await one.set("k", "x" * (1 << 20))
        with pytest.raises(Invalid):
            one.call("p", object())
        waits = one.subscribe("nothing.comes")
        await one.close()
        with pytest.raises(Closed):
            await one.get("k")
        assert [event async for event in waits] == []

    await library.run(scenario, 20.0)


@pytest_twisted.ensureDeferred
async def test_it_comes_back_and_goes_on_where_it_was(shared_daemon: Any, library: Library) -> None:
    topic, proxy = f"back.{library.name}", await Proxy(shared_daemon.port).start()

    async def scenario(library: Library) -> None:
        url = f"ws://127.0.0.1:{proxy.port}/v1/ws"
        one = library.client(url, token=SECRET + "-shared", **FAST)
        async with client(library, shared_daemon) as other, one:
            kinds: list[str] = []
            one.on("*", lambda notice: kinds.append(notice.kind))
            one.serve(f"{topic}.echo")(lambda value: value)
            events, changes = one.subscribe(topic, from_="new"), one.watch(f"{topic}.*")
            await library.gather(events.ready(), one.settled())
            from_thread: Any = reactor
            from_thread.callFromThread(proxy.reset)
            await library.gather(*(other.publish(topic, n, durable=True) for n in range(5)))
            await other.set(f"{topic}.k", "v")
            assert [(await events.__anext__()).payload for _ in range(5)] == [0, 1, 2, 3, 4]
            assert (await changes.__anext__()).value == "v"
            await one.settled()
            assert await other.call(f"{topic}.echo", 7) == 7
            assert kinds == ["lost", "waiting", "connecting", "ready"]
            assert one.stats().losses >= 1

    await library.run(scenario, 20.0)
    await proxy.stop()


@pytest_twisted.ensureDeferred
async def test_a_name_is_taken_by_one_server(shared_daemon: Any, library: Library) -> None:
    async def scenario(library: Library) -> None:
        name = f"taken.{library.name}"
        async with client(library, shared_daemon) as one, client(library, shared_daemon) as other:
            one.serve(name)(lambda: 1)
            await one.settled()
            failed: list[Any] = []
            other.on("registration-failed", failed.append)
            other.serve(name)(lambda: 2)
            await library.until(lambda: failed)
            assert isinstance(failed[0].error, Taken)

    await library.run(scenario, 20.0)


@pytest_twisted.ensureDeferred
async def test_the_rate_of_the_broker_is_kept(start_daemon: Any, library: Library) -> None:
    daemon = await start_daemon(TXBROKER_RATE="40", TXBROKER_RATE_BURST="10")

    async def scenario(library: Library) -> None:
        async with library.client(daemon.ws("/v1/ws"), **FAST) as one:
            told: list[Any] = []
            one.on("rate-limited", told.append)
            values = await library.gather(*(one.get("k") for _ in range(30)))
            assert [entry.value for entry in values] == [None] * 30
            assert told
            assert one.stats().rate is not None

    await library.run(scenario, 20.0)


@pytest_twisted.ensureDeferred
async def test_polling(shared_daemon: Any, library: Library) -> None:
    channel = f"polled.{library.name}"

    async def scenario(library: Library) -> None:
        client = POLLING[library.name]
        async with client(shared_daemon.url, "poller", secret=SECRET + "-shared", timeout=10.0) as one:
            posted = await one.post(channel, "made", {"n": 1})
            await one.post(channel, "made", {"n": 2})
            assert (posted.id, posted.type, posted.sender) == (1, "made", "poller")
            found = []
            async for event in one.follow(channel):
                found.append(event.data)
                if len(found) == 2:
                    await one.post(channel, "made")
                if len(found) == 3:
                    break
            assert found == [{"n": 1}, {"n": 2}, None]
            assert [event.id for event in await one.latest(channel, 2)] == [2, 3]
            assert [event.id for event in await one.read(channel)] == [3]  # the second was acknowledged
            assert await one.read(channel, after=3) == []
            with pytest.raises(Invalid):
                await one.post(channel, "made", 5)
        async with client(shared_daemon.url, "poller", secret="wrong") as wrong:
            with pytest.raises(Unauthenticated):
                await wrong.read(channel)
        async with client("http://127.0.0.1:1", "poller") as nowhere:
            with pytest.raises(ConnectionLost):
                await nowhere.read(channel)

    await library.run(scenario, 20.0)


@pytest_twisted.ensureDeferred
async def test_deferreds_can_be_yielded(shared_daemon: Any) -> None:
    client = TwistedClient(shared_daemon.ws("/v1/ws"), token=SECRET)

    @inlineCallbacks
    def program():  # type: ignore[no-untyped-def]
        yield client.connect()
        events = client.subscribe("yielded", echo=True)
        yield events.ready()
        yield client.publish("yielded", 1)
        event = yield next_of(events)
        yield client.close()
        return event.payload

    assert await program() == 1
