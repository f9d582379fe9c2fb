"""The one service of the pair: Python, over the native dialect.

It performs ``prices.of``, which the shop calls, and calls ``shop.stock``, which the shop performs.
"""

import asyncio
import os

from broker.client import CallFailed
from broker.client.asyncio import Client

URL = os.environ.get("BROKER", "http://localhost:8000").replace("http", "ws", 1) + "/v1/ws"
PRICES = {"apple": 0.5, "pear": 0.75}


async def main() -> None:
    async with Client(URL) as client:

        @client.serve("prices.of")
        async def price_of(order: dict[str, str]) -> dict[str, float | str]:
            if (price := PRICES.get(order["fruit"])) is None:
                raise CallFailed(f"there is no price of a {order['fruit']}", "NO_PRICE")
            stock = await client.call("shop.stock", order, timeout=5.0)
            print(f"prices: a {order['fruit']} is {price}, and the shop has {stock['pieces']}", flush=True)
            return {"price": price if stock["pieces"] > 10 else 2 * price}

        await asyncio.Event().wait()  # until it is ended


if __name__ == "__main__":
    asyncio.run(main())
