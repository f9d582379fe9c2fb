"""Many polls of much through one Redis: what they cost another client, Redis and the daemon.

Eighty clients each read 32 events of 1 MB at once, while another one, in a process of its own, posts.
Usage: ``python -m benchmarks.large_polls``
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import msgspec

from benchmarks.servers import Broker, Redis, status

POLLS, EVENTS, SIZE = 80, 32, 1_000_000
PAUSE = 0.05  # seconds between two posts of the other client
CONNECT_TIMEOUT = 30.0  # seconds
SOURCE = "127.0.1.%d"  # of a client: all of one address share what the broker keeps for who reads slowly
TICKS = os.sysconf("SC_CLK_TCK")


class Position(msgspec.Struct):
    """What a reader needs of an event: to decode all of it would cost more than to read it."""

    id: int


_positions = msgspec.json.Decoder(list[Position]).decode


async def request(port: int, method: str, path: str, body: bytes = b"", source: str = "127.0.0.1") -> tuple[int, bytes]:
    """Return status and body of the answer to one request on a connection of its own, from the address *source*."""
    head = f"{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    # The request goes out at once: a connection on which nothing comes for ten seconds is closed by the broker, and
    # with eighty answers to read that long may pass until this loop comes to it.
    handle = socket.create_connection(("127.0.0.1", port), CONNECT_TIMEOUT, (source, 0))
    handle.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    handle.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=handle, limit=1 << 20)
    answer = bytearray()
    while chunk := await reader.read(1 << 20):
        answer += chunk
    writer.close()
    return int(answer[9:12]), bytes(answer.partition(b"\r\n\r\n")[2])


async def post(port: int, channel: str, data: str) -> int:
    """Post one event, and return the status."""
    event = {"clientId": "writer", "channel": channel, "from": "writer", "type": "t", "data": {"text": data}}
    return (await request(port, "POST", "/events/v1/events", json.dumps(event).encode()))[0]


async def poll_all(port: int, client: int, statuses: Counter[int]) -> int:
    """Read the whole channel page by page; return how many events there were."""
    after = 0
    while after < EVENTS:
        path = f"/events/v1/events?clientId=c{client}&channel=big&after={after}&limit={EVENTS}"
        status, body = await request(port, "GET", path, source=SOURCE % client)
        statuses[status] += 1
        if status != 200:
            return after
        after = _positions(body)[-1].id
    return after


async def read_all(port: int) -> tuple[int, Counter[int]]:
    """Let all clients read; return how many events they got, and the statuses of the answers."""
    statuses: Counter[int] = Counter()
    read = await asyncio.gather(*(poll_all(port, number, statuses) for number in range(1, POLLS + 1)))
    return sum(read), statuses


def read_in_process(port: int) -> tuple[int, Counter[int]]:
    return asyncio.run(read_all(port))


async def post_meanwhile(port: int, done: asyncio.Event, delays: list[float], statuses: Counter[int]) -> None:
    """Post small events, and note how long each takes."""
    while not done.is_set():
        started = time.perf_counter()
        statuses[await post(port, "small", "1")] += 1
        delays.append(time.perf_counter() - started)
        await asyncio.sleep(PAUSE)


def peak_of(server: Broker | Redis) -> int:
    """Return the most memory that a process had, in MB."""
    [pid] = server.pids()
    return next(int(line.split()[1]) for line in status(pid) if line.startswith("VmHWM")) // 1000


def cpu_of(server: Redis) -> float:
    """Return the seconds that a process has used."""
    fields = Path(f"/proc/{server.pids()[0]}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def measure(daemon: Broker, redis: Redis) -> None:
    """Let everybody do their work, and print what was seen."""
    while (await request(daemon.port, "GET", "/ready"))[0] != 200:
        await asyncio.sleep(PAUSE)
    for _ in range(EVENTS):
        assert await post(daemon.port, "big", "y" * SIZE) == 200
    posted: Counter[int] = Counter()
    delays: list[float] = []
    done = asyncio.Event()
    before = peak_of(redis), cpu_of(redis)
    posting = asyncio.ensure_future(post_meanwhile(daemon.port, done, delays, posted))
    started = time.perf_counter()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        read, polled = await asyncio.get_running_loop().run_in_executor(pool, read_in_process, daemon.port)
    seconds = time.perf_counter() - started
    done.set()
    await posting
    delays.sort()
    print(f"{POLLS} clients read {read} events of {SIZE / 1e6:.0f} MB in {seconds:.1f} s: {dict(polled)}")
    print(
        f"{len(delays)} posts of another client meanwhile: {dict(posted)}, median {delays[len(delays) // 2] * 1e3:.0f}"
        f" ms, worst {delays[-1] * 1e3:.0f} ms"
    )
    print(
        f"Redis: {before[0]} MB before, {peak_of(redis)} MB at most, "
        f"{cpu_of(redis) - before[1]:.1f} s of CPU; daemon: {peak_of(daemon)} MB at most"
    )


class RedisBroker(Broker):
    """The broker on a Redis."""

    def __init__(self, directory: Path, redis: Redis) -> None:
        super().__init__(directory)
        self.store = f"redis://127.0.0.1:{redis.port}/0"


def main() -> None:
    """Start a Redis and a daemon of their own, and measure."""
    directory = Path(tempfile.mkdtemp(prefix="txbroker-"))
    redis = Redis(directory)
    daemon = RedisBroker(directory, redis)
    redis.start()
    try:
        daemon.start()
        asyncio.run(measure(daemon, redis))
    finally:
        daemon.stop()
        redis.stop()


if __name__ == "__main__":
    main()
