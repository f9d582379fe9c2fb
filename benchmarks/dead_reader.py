"""A reader that never reads, among sixty: what it costs the others and our memory.

1.2 GB go out to 60 subscribers of the native dialect, one of which is
dead.  Usage: ``python -m benchmarks.dead_reader``
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import tempfile
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect

from benchmarks.servers import Broker

READERS = 60
MESSAGE = 50_000  # bytes
TOTAL = 1_200_000_000  # bytes delivered, all readers together: more for each than its buffers hold
DEADLINE = 180.0  # seconds


async def call(link: ClientConnection, method: str, *arguments: object) -> None:
    await link.send(json.dumps({"type": "call", "id": "1", "method": method, "payload": list(arguments)}))
    await link.recv()


async def dead_reader(port: int) -> asyncio.StreamWriter:
    """Subscribe by hand and never read again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET /owlmeans HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    text = json.dumps({"type": "call", "id": "1", "method": "broker.subscribe", "payload": ["news"]}).encode()
    writer.write(bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text)
    await reader.readexactly(20)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    return writer


async def publish(port: int, messages: int, progress: list[int]) -> None:
    payload = json.dumps({"type": "event", "event": "news", "payload": "x" * MESSAGE})
    async with connect(f"ws://127.0.0.1:{port}/owlmeans", max_size=None) as link:
        for number in range(messages):
            await link.send(payload)
            # A publisher that knows nothing of its readers, yet leaves the healthy ones time to read.
            while number - min(progress) > 8:
                await asyncio.sleep(0.001)
        await call(link, "broker.whoami")


async def watch(server: Broker, base: int, grown: list[int]) -> None:
    while True:
        grown.append(server.resident_kib() - base)
        await asyncio.sleep(0.02)


async def count(link: ClientConnection, messages: int, progress: list[int], index: int) -> None:
    for number in range(messages):
        await link.recv()
        progress[index] = number


async def measure(server: Broker) -> None:
    messages = TOTAL // READERS // MESSAGE
    links = [
        await connect(f"ws://127.0.0.1:{server.port}/owlmeans", max_size=None, compression=None)
        for _ in range(READERS - 1)
    ]
    for link in links:
        await call(link, "broker.subscribe", "news")
    dead = await dead_reader(server.port)
    base, grown, progress = server.resident_kib(), [0], [0] * len(links)
    watcher = asyncio.create_task(watch(server, base, grown))
    readers = [asyncio.create_task(count(link, messages, progress, n)) for n, link in enumerate(links)]
    await publish(server.port, messages, progress)
    await asyncio.gather(*readers)
    watcher.cancel()
    dead.transport.abort()
    verdict = "reached" if max(grown) < 32 * 1024 else "NOT REACHED"
    print(
        f"dead reader: {len(links)} others got all {messages} messages of {MESSAGE} bytes;"
        f" memory grew by {max(grown) / 1024:.1f} MiB (goal 32) {verdict}"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        server = Broker(Path(directory))
        server.start()
        try:
            asyncio.run(asyncio.wait_for(measure(server), DEADLINE))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
