"""How much memory one client can make the daemon hold, at his worst: growth while it lasts, and after.

Usage: ``python -m benchmarks.abuse_memory [SECONDS] [ROUNDS] [NAME …]``.  A new attack is a function
with ``@attack``, that gets a ``Target`` and does its worst until ``target.over()``.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import attrs

from benchmarks.servers import Broker

SECONDS = 10.0  # of each attack
ROUNDS = 3
PERIOD = 0.05  # seconds between two looks at the memory
SETTLING = 3.0  # seconds from the end of an attack to the look at what memory is left
MAX_GROWTH, MAX_LEFT = 32.0, 4.0  # MiB, while an attack lasts and after it
BIG = 1_000_000  # bytes of a message that is just not too large

MESSAGE_PATH = "/owlmeans"
KEYS_PATH = "/ws?apiKey=x"
EVENTS_PATH = "/events/v1/events"


@attrs.define
class Target:
    """The daemon that is attacked, and until when."""

    port: int
    end: float
    sockets: list[socket.socket] = attrs.field(factory=list)

    def over(self) -> bool:
        return time.monotonic() > self.end

    def sleep(self, seconds: float = 0.2) -> None:
        time.sleep(min(seconds, max(0.0, self.end - time.monotonic())))

    def connect(self, receive: int = 0) -> socket.socket:
        """Return a new connection, with a receive buffer of *receive* bytes if that is not 0."""
        made = socket.socket()
        made.settimeout(5.0)
        if receive:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        made.connect(("127.0.0.1", self.port))
        self.sockets.append(made)
        return made

    def websocket(self, path: str, receive: int = 0) -> socket.socket:
        made = self.connect(receive)
        made.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += made.recv(1)
        return made

    def request(self, head: str, body: bytes = b"") -> bytes:
        made = self.connect()
        made.sendall(f"{head}\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = made.recv(65536)
        made.close()
        return answer

    def post(self, channel: str, size: int) -> None:
        event = {"clientId": "a", "channel": channel, "from": "a", "type": "t", "data": {"b": "x" * size}}
        answer = self.request(
            f"POST {EVENTS_PATH} HTTP/1.1\r\nContent-Type: application/json", json.dumps(event).encode()
        )
        assert b" 200 " in answer, answer


def frame(data: bytes | str | dict[str, object], first: int = 0x81) -> bytes:
    """Return *data* as one frame; its mask is 0."""
    if isinstance(data, dict):
        data = json.dumps(data, ensure_ascii=False)
    if isinstance(data, str):
        data = data.encode()
    size = len(data)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = bytes((first, 0xFE)) + struct.pack(">H", size)
    else:
        head = bytes((first, 0xFF)) + struct.pack(">Q", size)
    return head + bytes(4) + data


def call(method: str, *arguments: object, ref: str = "1") -> bytes:
    return frame({"type": "call", "id": ref, "method": method, "payload": list(arguments)})


Attack = Callable[[Target], None]
ATTACKS: dict[str, Attack] = {}


def attack(act: Attack) -> Attack:
    """Add *act* to the table, under its name."""
    ATTACKS[act.__name__.replace("_", " ")] = act
    return act


def each(target: Target, act: Callable[[], object], pause: float = 0.0) -> None:
    """Do *act* again and again, though the daemon may end connections."""
    while not target.over():
        with suppress(OSError):
            act()
        if pause:
            target.sleep(pause)


@attack
def unread_answers(target: Target) -> None:
    """Pages of large events, asked for by clients that do not read them."""
    for _ in range(9):
        target.post("big", BIG)

    def ask() -> None:
        asking = target.connect(4096)
        asking.sendall(b"GET /events/v1/latest?channel=big&limit=1000 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")

    each(target, ask, 0.02)


@attack
def unread_events(target: Target) -> None:
    """Subscribers that do not read, and large events."""
    publisher = target.websocket(MESSAGE_PATH)
    for number in range(100):
        with suppress(OSError):
            target.websocket(MESSAGE_PATH, 4096).sendall(call("broker.subscribe", "big", ref=f"{number}"))
    event = frame({"type": "event", "event": "big", "payload": "x" * BIG})
    each(target, lambda: publisher.sendall(event), 0.1)


@attack
def overlapping_patterns(target: Target) -> None:
    """A thousand patterns of one client that match one large event."""
    publisher = target.websocket(MESSAGE_PATH)

    def strike() -> None:
        reader = target.websocket(MESSAGE_PATH, 4096)
        patterns = [".".join("*" if number >> bit & 1 else "a" for bit in range(10)) for number in range(1000)]
        for start in range(0, 1000, 100):
            reader.sendall(call("broker.subscribe", patterns[start : start + 100]))
        target.sleep(0.2)
        publisher.sendall(frame({"type": "event", "event": ".".join("a" * 10), "payload": "x" * BIG}))

    each(target, strike, 0.5)


@attack
def half_sent_bodies(target: Target) -> None:
    """Bodies that lack their last byte."""

    def begin() -> None:
        target.connect().sendall(
            f"POST {EVENTS_PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {BIG}\r\n\r\n".encode()
            + b"x" * (BIG - 1)
        )

    each(target, begin, 0.01)


@attack
def half_sent_messages(target: Target) -> None:
    """Messages in fragments that lack the last."""

    def begin() -> None:
        link = target.websocket(MESSAGE_PATH)
        link.sendall(frame(b"x" * (BIG // 2), 0x01) + frame(b"x" * (BIG // 2), 0x00))

    each(target, begin, 0.01)


@attack
def bodies_of_polls(target: Target) -> None:
    """Polls that wait, with large bodies that mean nothing."""

    def poll() -> None:
        target.connect().sendall(
            f"GET {EVENTS_PATH}?clientId=c&channel=quiet HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Length: {BIG}\r\n\r\n".encode()
            + b"x" * BIG
        )

    each(target, poll, 0.01)


@attack
def ranges_at_once(target: Target) -> None:
    """Ranges over large values, forty at a time."""
    keys = target.websocket(KEYS_PATH)
    for number in range(64):
        keys.sendall(frame({"op": 2, "key": f"k{number:03}", "value": "x" * BIG, "messageId": number}))
        keys.recv(1000)

    def ask() -> None:
        link = target.websocket(MESSAGE_PATH)
        for number in range(40):
            link.sendall(call("broker.range", "k", "k~", {"limit": 1}, ref=f"r{number}"))
        link.settimeout(0.5)
        while link.recv(1 << 20):
            pass

    each(target, ask)


@attack
def pending_calls(target: Target) -> None:
    """Ten thousand calls to oneself, with ids as long as they may be."""

    def strike() -> None:
        link = target.websocket(MESSAGE_PATH)
        name, ref = "\U0001f600" * 250, "\U0001f600" * 1000
        link.sendall(call("broker.register", name))
        threading.Thread(target=drain, args=(link,), daemon=True).start()
        for number in range(10_000):
            if target.over():
                break
            link.sendall(frame({"type": "call", "id": f"{ref}{number}", "method": name, "payload": [], "timeout": 0}))

    each(target, strike)


@attack
def packets_not_polled(target: Target) -> None:
    """Socket.IO clients that subscribe by polling, and never poll again."""
    publisher = target.websocket(KEYS_PATH)
    for _ in range(50):
        with suppress(OSError):
            target.request("GET /socket.io/?EIO=4&transport=polling HTTP/1.1")
    number = 0

    def send() -> None:
        nonlocal number
        publisher.sendall(frame({"op": 2, "key": "k", "value": "x" * BIG, "messageId": number}))
        publisher.recv(1000)
        number += 1

    each(target, send, 0.05)


@attack
def writes_at_once(target: Target) -> None:
    """Large values, set faster than any disk takes them."""
    links = [target.websocket(KEYS_PATH) for _ in range(4)]
    for link in links:
        threading.Thread(target=drain, args=(link,), daemon=True).start()
    value = frame({"op": 2, "key": "k", "value": "x" * BIG, "messageId": 1})

    def send() -> None:
        for link in links:
            link.sendall(value)

    each(target, send)


def drain(link: socket.socket) -> None:
    with suppress(OSError):
        link.settimeout(30.0)
        while link.recv(1 << 20):
            pass


def measure(act: Attack, seconds: float, folder: Path) -> tuple[float, float]:
    """Return how much memory grew while *act* lasted, and by how much it is more after it, in MiB."""
    server = Broker(folder)
    server.start()
    try:
        target = Target(server.port, time.monotonic() + seconds)
        for number in range(20):
            # Caches of a bounded size are filled before.
            target.request("GET /health HTTP/1.1")
            target.post(f"warm{number % 2}", BIG)
        target.end = time.monotonic() + seconds
        before = most = server.resident_kib()
        worker = threading.Thread(target=act, args=(target,), daemon=True)
        worker.start()
        while worker.is_alive():
            most = max(most, server.resident_kib())
            worker.join(PERIOD)
        for one in target.sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        time.sleep(SETTLING)
        return (most - before) / 1024, (server.resident_kib() - before) / 1024
    finally:
        server.stop()


def main(words: list[str]) -> int:
    seconds = float(words[0]) if words else SECONDS
    rounds = int(words[1]) if len(words) > 1 else ROUNDS
    names = words[2:] or list(ATTACKS)
    failed = False
    for name in names:
        for number in range(1, rounds + 1):
            with tempfile.TemporaryDirectory() as folder:
                growth, left = measure(ATTACKS[name], seconds, Path(folder))
            good = growth <= MAX_GROWTH and left <= MAX_LEFT
            failed = failed or not good
            word = "" if good else "  too much"
            print(f"{name:24} round {number}: {growth:6.1f} MiB while it lasts, {left:5.1f} after{word}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
