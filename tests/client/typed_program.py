"""A program that uses the clients, which is only checked: strictly, as a user's program is, and with all its errors.

``make types`` fails when a line of it is wrong, and when one that is wrong on purpose is not found any more.
"""

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
        print(entry.value)
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


async def wrong(client: Client) -> None:
    await client.publish(5, 1)  # type: ignore[arg-type]
    await client.publish("t", 1, durabel=True)  # type: ignore[call-arg]
    client.on("losst", print)  # type: ignore[call-overload]
    Client("ws://x", nme="y")  # type: ignore[call-arg]
    number: int = (await client.get("k")).value  # type: ignore[assignment]
    print(number)
