"""Changes keys, as the machines of a shop would, for the dashboard to show.  Ctrl-C ends it."""

import asyncio
import os
import random

from broker.client.asyncio import Client

URL = os.environ.get("BROKER", "http://localhost:8000").replace("http", "ws", 1) + "/v1/ws"
PAUSE = float(os.environ.get("PAUSE", "0.5"))  # seconds between two changes
STOCK = 40  # pieces of each fruit after a delivery


async def sell(client: Client) -> None:
    """Sell some fruit, or have it delivered when there is none."""
    fruit = random.choice(("apples", "pears", "plums"))
    left = await client.increment(f"shop:stock:{fruit}", -random.randint(1, 5))
    if int(left.value or 0) <= 0:
        await client.set(f"shop:stock:{fruit}", str(STOCK))
        return
    await client.increment("shop:orders")
    await client.increment("shop:revenue", round(random.uniform(1, 9), 2))


async def main() -> None:
    async with Client(URL) as client:
        for fruit in ("apples", "pears", "plums"):
            await client.set(f"shop:stock:{fruit}", str(STOCK))
        print("selling; Ctrl-C ends it", flush=True)
        while True:
            await sell(client)
            await client.set("shop:visitors", str(random.randint(20, 90)), ttl=60.0)
            await asyncio.sleep(PAUSE)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
