"""A consumer of an event log, which goes on where it was: the broker keeps its cursor.

The first one fails in the middle of an event; that comes again to the second.  So an event is
handled at least once, and with the bookkeeping by its id exactly once.
"""

import asyncio
import os

from broker.client.asyncio import Client

URL = os.environ.get("BROKER", "http://localhost:8000").replace("http", "ws", 1) + "/v1/ws"
booked: dict[int, int] = {}  # amounts by the id of the event: a database in earnest


async def produce(client: Client) -> None:
    """Store five orders; by its key each is stored once, however often it is sent."""
    for number in range(1, 6):
        await client.publish("orders", {"amount": 10 * number}, durable=True, key=f"order-{number}")


async def bill(name: str, failing_at: int = 0) -> None:
    """Book the orders that nobody has acknowledged yet, up to the last of now."""
    async with Client(URL) as client:
        last = (await client.read("orders", last=1)).head
        async for event in client.subscribe("orders", cursor="billing"):
            booked[event.id] = event.payload["amount"]
            print(f"{name} books order {event.id}: {event.payload['amount']}")
            if event.id == failing_at:
                raise RuntimeError("the power has failed before the acknowledgement")
            await client.ack("billing", event.topic, event.position)
            if event.id == last:
                break


async def main() -> None:
    async with Client(URL) as client:
        await produce(client)
        try:
            await bill("the first", failing_at=3)
        except RuntimeError as error:
            print("the first ends:", error)
        await bill("the second")
        (cursor,) = await client.cursors("orders")
        print(f"booked {sum(booked.values())} of {len(booked)} orders; the cursor is {cursor.lag} behind")


if __name__ == "__main__":
    asyncio.run(main())
