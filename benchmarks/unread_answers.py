"""Many clients that ask for much and read nothing: how much memory of the daemon waits for them.

Forty clients each ask for a channel of 8 MB, by GETs whose answers they do not read.
Usage: ``python -m benchmarks.unread_answers``
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from pathlib import Path

from benchmarks.clients import post
from benchmarks.servers import Broker

CLIENTS = 40
BUFFER = 4096  # bytes that the kernel keeps for each client
TIMEOUT = 10.0  # seconds in which the memory must have settled


class UnboundedBroker(Broker):
    """The broker without bounds that would close most of the clients, or make answers shorter."""

    more = {"TXBROKER_MEMORY_PER_ADDRESS_BYTES": "0", "TXBROKER_SEND_QUEUE_BYTES": str(1 << 23)}


async def ask(port: int, channel: str, client: str) -> asyncio.StreamWriter:
    """Ask for *channel*, and read nothing."""
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    link.setblocking(False)
    await asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", port))
    _, writer = await asyncio.open_connection(sock=link, limit=1024)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    path = f"/events/v1/events?clientId={client}&channel={channel}&limit=1000&after=0"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return writer


async def measure(server: Broker, channel: str, events: int, size: int) -> None:
    """Fill *channel* with so many *events* of so many bytes, and print how much the daemon grows when nobody reads."""
    for _ in range(events):
        said = {"clientId": "w", "channel": channel, "from": "w", "type": "t", "data": {"text": "x" * size}}
        await asyncio.to_thread(post, server.port, "/events/v1/events", said)
    base = server.resident_kib()
    links = [await ask(server.port, channel, f"c{number}") for number in range(CLIENTS)]
    most, end = 0, time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        most = max(most, server.resident_kib() - base)
        await asyncio.sleep(0.05)
    kept = server.resident_kib() - base
    print(
        f"{CLIENTS} unread answers of {events} events of {size} bytes: "
        f"memory grew by {most / 1024:.1f} MiB at most, {kept / 1024:.1f} MiB in the end"
    )
    for link in links:
        link.transport.abort()
    await asyncio.sleep(1.0)


def main() -> None:
    """Start a daemon of its own, and measure."""
    with tempfile.TemporaryDirectory() as directory:
        server = UnboundedBroker(Path(directory))
        server.start()
        try:
            asyncio.run(measure(server, "small", 800, 10_000))
            asyncio.run(measure(server, "large", 9, 900_000))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
