"""Sends the plugin webhooks, a forged one too, and follows the events that they become."""

import asyncio
import hashlib
import hmac
import json
import os
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from broker.client.asyncio import Client

URL = os.environ.get("BROKER", "http://localhost:8000")
KEY = os.environ["TXBROKER_WEBHOOK_KEY"].encode()


def send(said: object, key: bytes) -> None:
    """Send a webhook as GitHub does, signed with *key*, and print the answer."""
    body = json.dumps(said).encode()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-Hub-Signature-256": "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest(),
    }
    try:
        with urlopen(Request(f"{URL}/webhook/github", body, headers), timeout=30) as answer:
            print("answer", answer.status, answer.read().decode().strip())
    except HTTPError as error:
        print("answer", error.code, error.read().decode().strip())


async def main() -> None:
    async with Client(URL.replace("http", "ws", 1) + "/v1/ws") as client:
        events = client.subscribe("webhook.*", from_="start")
        await asyncio.to_thread(send, {"ref": "refs/heads/main"}, KEY)
        await asyncio.to_thread(send, {"ref": "refs/heads/forged"}, b"a guess")
        await asyncio.to_thread(send, {"ref": "refs/tags/v1"}, KEY)
        for _ in range(2):
            event = await anext(events)
            print("event ", event.topic, event.id, event.name, event.payload)


if __name__ == "__main__":
    asyncio.run(main())
