"""What a program needs of the client: its types, and no parts of the broker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PARTS = "core peer access config observe web stores buses redis cluster app interfaces messages".split()
pytestmark = [pytest.mark.processes, pytest.mark.unmeasured]
DRIVERS = {
    "broker.client": ("twisted", "asyncio", "autobahn", "websockets", "aiohttp", "zope"),
    "broker.client.asyncio": ("twisted", "autobahn", "aiohttp"),
    "broker.client.asyncio_polling": ("twisted", "autobahn", "websockets"),
    "broker.client.twisted": ("websockets", "aiohttp"),
    "broker.client.twisted_polling": ("websockets", "aiohttp"),
}
PROGRAM = """
from __future__ import annotations

from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks

from broker.client import ClientError, Conflict, Entry, Event, Job, Published
from broker.client.asyncio import Client as AsyncioClient
from broker.client.asyncio_polling import PollingClient as AsyncioPolling
from broker.client.twisted import Client, next_of
from broker.client.twisted_polling import PollingClient


async def both(client: Client | AsyncioClient) -> str | None:
    async with client.subscribe("orders.*", from_="start", cursor="billing") as events:
        async for event in events:
            text: str = event.topic
            await client.ack("billing", text, event.position)
            break
    published: Published = await client.publish("orders", {"n": 1}, durable=True, key="k")
    try:
        entry: Entry = await client.set("k", "v", revision=published.id)
    except Conflict as error:
        print(error.head)
    except ClientError as error:
        print(error.code)
    async for job in client.consume("mails", prefetch=4):
        async with job:
            print(job.payload)
    return (await client.get("k")).value


def made() -> Client:
    client = Client("ws://localhost:8000/v1/ws", token=lambda: "secret", name="me", timeout=5.0)

    @client.serve("math.add", mode="roundrobin")
    def add(one: int, other: int) -> int:
        return one + other

    @client.on("lost")
    def lost(notice: object) -> None:
        print(notice, add(1, 2))

    def on_event(event: Event) -> None:
        print(event.id)

    async def on_job(job: Job) -> None:
        await job.extend(5.0)

    client.subscribe("news", on_event)
    client.consume("mails", on_job)
    return client


@inlineCallbacks
def old(client: Client) -> Generator[Deferred[Any], Any, int]:
    yield client.connect()
    events = client.subscribe("news")
    event: Event = yield next_of(events)
    got: Deferred[Entry] = client.get("k")
    yield got
    return event.id


async def polled(one: PollingClient, other: AsyncioPolling) -> int:
    async for event in one.follow("c"):
        print(event.data)
    return (await other.post("c", "made")).id + (await one.post("c", "made")).id
"""
WRONG = (
    PROGRAM
    + """

async def wrong(client: Client) -> None:
    await client.publish(5, 1)
    await client.publish("t", 1, durabel=True)
    client.on("losst", print)
    Client("ws://x", nme="y")
    number: int = (await client.get("k")).value
"""
)


@pytest.mark.parametrize("module", DRIVERS)
def test_a_module_of_the_client_imports_no_more_than_it_needs(module):
    program = f"import sys, {module}; print(*sys.modules)"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    loaded = subprocess.run([sys.executable, "-c", program], env=environ, cwd="/", capture_output=True, check=True)
    names = loaded.stdout.decode().split()
    unwanted = [f"broker.{part}" for part in PARTS] + ["protocols", *DRIVERS[module]]
    found = [name for name in names if any(name == each or name.startswith(f"{each}.") for each in unwanted)]
    assert [name for name in found if not name.startswith("asyncio") or module == "broker.client"] == []


def test_a_typed_program_is_checked_strictly(short_path):
    # With the settings of the project, which are strict, and what mypy remembers by them: without that it takes long.
    for name, text in (("right", PROGRAM), ("wrong", WRONG)):
        (short_path / f"{name}.py").write_text(text)
    programs = [str(short_path / f"{name}.py") for name in ("right", "wrong")]
    command = [sys.executable, "-m", "mypy", "--strict", *programs]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    faults = [each for each in ran.stdout.decode().splitlines() if "error:" in each]
    assert [each for each in faults if "right.py" in each] == []
    assert len(faults) == 5, faults
