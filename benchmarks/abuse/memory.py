"""What the daemon is made to hold, and to keep."""

from __future__ import annotations

import json
import threading
from contextlib import suppress

from benchmarks.abuse.target import EVENTS_PATH, HOST, MEGABYTE, MESSAGE_PATH, SOCKET_IO_PATH, Target, attack
from benchmarks.clients import WebSocket

SMALL = 4096  # bytes of a receive buffer
LARGE = "x" * MEGABYTE


def frame(said: dict[str, object]) -> bytes:
    return WebSocket.frame(json.dumps(said, ensure_ascii=False))


def event_of(channel: str) -> dict[str, object]:
    return {"clientId": "a", "channel": channel, "from": "a", "type": "t", "data": {"b": LARGE}}


def drain(link: WebSocket) -> None:
    """Read whatever comes, in a thread."""

    def read() -> None:
        with suppress(OSError):
            while link.socket.recv(1 << 20):
                pass

    threading.Thread(target=read, daemon=True).start()


@attack
def cold_start(target: Target) -> None:
    """What each dialect needs for its first use, and some events and keys of a megabyte: no more than that."""
    for number in range(10):
        target.post(EVENTS_PATH, event_of(f"c{number % 2}"))
    target.fill((f"k{number}", LARGE) for number in range(10))
    for path in (MESSAGE_PATH, "/thinws", SOCKET_IO_PATH.format("websocket")):
        target.websocket(path)
    target.sleep(target.end)


@attack
def unread_answers(target: Target) -> None:
    """Pages of large events, asked for by clients that do not read them."""
    for _ in range(9):
        target.post(EVENTS_PATH, event_of("big"))
    asked = f"GET {EVENTS_PATH}?channel=big&clientId=c&limit=1000&after=0 {HOST}\r\n".encode()
    latest = f"GET /events/v1/latest?channel=big&limit=1000 {HOST}\r\n".encode()
    target.repeat(lambda: [target.connect(one, SMALL) for one in (asked, latest)], 0.02)


@attack
def unread_events(target: Target) -> None:
    """Subscribers that do not read, and large events."""
    publisher = target.owlmeans()
    for _ in range(100):
        with suppress(OSError):
            target.owlmeans(SMALL).send_call("broker.subscribe", "big")
    event = frame({"type": "event", "event": "big", "payload": LARGE})
    target.repeat(lambda: publisher.socket.sendall(event), 0.1)


@attack
def overlapping_patterns(target: Target) -> None:
    """A thousand patterns of one client that match one large event."""
    publisher = target.owlmeans()
    patterns = [".".join("*" if number >> bit & 1 else "a" for bit in range(10)) for number in range(1000)]
    event = frame({"type": "event", "event": ".".join("a" * 10), "payload": LARGE})

    def strike() -> None:
        reader = target.owlmeans(SMALL)
        for start in range(0, 1000, 100):
            reader.send_call("broker.subscribe", patterns[start : start + 100])
        target.sleep(0.2)
        publisher.socket.sendall(event)

    target.repeat(strike, 0.5)


@attack
def half_sent_bodies(target: Target) -> None:
    """Bodies that lack their last byte."""
    said = f"POST {EVENTS_PATH} {HOST}Content-Length: {MEGABYTE + 1}\r\n\r\n{LARGE}".encode()
    target.repeat(lambda: target.connect(said), 0.01)


@attack
def half_sent_messages(target: Target) -> None:
    """Messages in fragments that lack the last."""
    parts = WebSocket.frame(LARGE[::2], 0x01) + WebSocket.frame(LARGE[::2], 0x00)
    target.repeat(lambda: target.owlmeans().socket.sendall(parts), 0.01)


@attack
def bodies_of_polls(target: Target) -> None:
    """Polls that wait, with large bodies that mean nothing."""
    poll = f"GET {EVENTS_PATH}?clientId=c&channel=quiet {HOST}Content-Length: {MEGABYTE}\r\n\r\n{LARGE}".encode()
    target.repeat(lambda: target.connect(poll), 0.01)


@attack
def ranges_at_once(target: Target) -> None:
    """Ranges over large values, forty at a time."""
    target.fill((f"k{number:03}", LARGE) for number in range(64))

    def ask() -> None:
        link = target.owlmeans()
        for _ in range(40):
            link.send_call("broker.range", "k", "k~", {"limit": 1})
        link.drain(0.5)
        link.close()

    target.repeat(ask)


@attack
def pending_calls(target: Target) -> None:
    """Ten thousand calls to oneself, with ids as long as they may be."""
    name, ref = "\U0001f600" * 250, "\U0001f600" * 1000

    def strike() -> None:
        link = target.owlmeans()
        link.call("broker.register", name)
        drain(link)
        for number in range(10_000):
            if target.over():
                break
            call = {"type": "call", "id": f"{ref}{number}", "method": name, "payload": [], "timeout": 0}
            link.socket.sendall(frame(call))

    target.repeat(strike)


@attack
def packets_not_polled(target: Target) -> None:
    """Services that came by polling, never poll again, and get large requests."""
    path = SOCKET_IO_PATH.format("polling")
    for _ in range(50):
        with suppress(OSError, ValueError, IndexError):
            sid = json.loads(target.get(path).split(b"\r\n\r\n0", 1)[1])["sid"]
            target.post(f"{path}&sid={sid}", "40")
    caller = target.websocket(SOCKET_IO_PATH.format("websocket").replace("=me", "=you"))
    caller.send("40")
    drain(caller)
    payload = {"id": "1", "event": "e", "data": LARGE}
    said = '42["request",%s]' % json.dumps({"targetService": "me", "payload": payload})
    target.repeat(lambda: caller.send(said), 0.05)


@attack
def writes_at_once(target: Target) -> None:
    """Large values, set faster than any disk takes them."""
    links = [target.hpkv() for _ in range(4)]
    for link in links:
        drain(link)
    value = frame({"op": 2, "key": "k", "value": LARGE, "messageId": 1})

    def write() -> None:
        for link in links:
            link.socket.sendall(value)

    target.repeat(write)
