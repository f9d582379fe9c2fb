"""A worker with retries: a job that fails comes again, ever later, until it is done or dead."""

import asyncio
import os

from broker.client.asyncio import Client

URL = os.environ.get("BROKER", "http://localhost:8000").replace("http", "ws", 1) + "/v1/ws"
LETTERS = ("ann@example.com", "slow@example.com", "nobody@example.com")


def send(address: str, delivery: int) -> None:
    """Stand for what sends a letter and may fail."""
    if address.startswith("slow") and delivery < 3:
        raise TimeoutError("the mail server does not answer")
    if address.startswith("nobody"):
        raise ValueError("there is no such mailbox")


async def work(client: Client) -> None:
    """Send letters until the queue is empty."""
    async for job in client.consume("letters"):
        try:
            send(job.payload["to"], job.delivery)
        except Exception as error:
            print(f"failed, try {job.delivery}: {job.payload['to']}: {error}")
            await job.fail(str(error), delay=0.05 * 2**job.delivery)  # 0.1 s, 0.2 s, 0.4 s, …
        else:
            print(f"sent, try {job.delivery}: {job.payload['to']}")
            await job.done()
        state = await client.queue("letters")
        if state.depth + state.delayed + state.in_flight == 0:
            print(f"the queue is empty; dead: {state.dead}")
            return


async def main() -> None:
    async with Client(URL) as client:
        for letter in LETTERS:  # by the key, each is added once, however often this is sent
            await client.enqueue("letters", {"to": letter}, key=f"welcome-{letter}")
        await work(client)


if __name__ == "__main__":
    asyncio.run(main())
