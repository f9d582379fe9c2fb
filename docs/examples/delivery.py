"""A client of the native dialect, with nothing but a WebSocket library: pip install websockets.

Usage: delivery.py URL publish TOPIC JSON KEY    stores an event once, however often this is tried
       delivery.py URL follow TOPIC FILE         prints what is stored; goes on after the last one that FILE has
       delivery.py URL enqueue QUEUE JSON KEY    adds a job once
       delivery.py URL work QUEUE                prints each job, and says that it is done

URL is ws://localhost:8000/owlmeans, with ?token=… where the broker asks for a credential.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed


class Client:
    """One connection: asks the broker, and has what the broker sends of itself."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._ids = socket, count(1)
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._others: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())

    async def call(self, method: str, *arguments: Any) -> Any:
        """Return the result; a refusal is a RuntimeError."""
        id = str(next(self._ids))
        answer = self._answers[id] = asyncio.get_running_loop().create_future()
        await self._socket.send(json.dumps({"type": "call", "id": id, "method": method, "payload": arguments}))
        return await answer

    async def frames(self) -> AsyncIterator[dict[str, Any]]:
        """Yield events, jobs and notices, until the connection is lost."""
        while (frame := await self._others.get()) is not None:
            yield frame

    async def _read(self) -> None:
        try:
            async for text in self._socket:
                frame = json.loads(text)
                answer = self._answers.pop(frame.get("id"), None) if frame["type"] in ("result", "error") else None
                if answer is None:
                    self._others.put_nowait(frame)
                elif frame["type"] == "result":
                    answer.set_result(frame["payload"])
                else:
                    answer.set_exception(RuntimeError(frame["payload"]))
        except ConnectionClosed:
            pass
        finally:
            self._others.put_nowait(None)
            for answer in self._answers.values():
                answer.set_exception(ConnectionError("the connection was lost"))


async def publish(client: Client, topic: str, payload: str, key: str) -> None:
    print(json.dumps(await client.call("broker.publish", topic, json.loads(payload), {"durable": True, "key": key})))


async def follow(client: Client, topic: str, file: str) -> None:
    place = Path(file)
    last = json.loads(place.read_text()) if place.exists() else "start"
    begun = await client.call("broker.subscribe", topic, {"from": last})
    if not begun["recovered"]:
        print("lost:", begun["lost"], file=sys.stderr)
    async for frame in client.frames():
        if frame["type"] == "event":
            print(json.dumps(frame["payload"]), flush=True)
            new = Path(f"{file}.new")
            new.write_text(json.dumps({"epoch": frame["epoch"], "id": frame["id"]}))
            new.replace(place)  # when it is done with the event, and as a whole
        elif frame.get("event") == "broker.gap":
            print("lost:", frame["payload"], file=sys.stderr)


async def enqueue(client: Client, queue: str, payload: str, key: str) -> None:
    print(json.dumps(await client.call("broker.enqueue", queue, json.loads(payload), {"key": key})))


async def work(client: Client, queue: str) -> None:
    await client.call("broker.consume", queue, {"ack": True})
    async for frame in client.frames():
        if frame["type"] == "message":
            print(json.dumps(frame["payload"]), f"delivery {frame['delivery']}", flush=True)
            await client.call("broker.done", frame["id"])  # or broker.fail, to have it come again


async def main(url: str, verb: str, *words: str) -> None:
    act = {"publish": publish, "follow": follow, "enqueue": enqueue, "work": work}[verb]
    async for socket in connect(url):  # again and again, waiting longer each time
        try:
            await act(Client(socket), *words)
            if verb in ("publish", "enqueue"):
                return
        except (ConnectionError, ConnectionClosed):
            pass  # nobody knows whether it was done: the same key makes it safe to try again


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
