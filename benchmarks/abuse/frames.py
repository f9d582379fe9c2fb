"""As many frames, requests, packets and connections as possible."""

from __future__ import annotations

import json
import socket
from contextlib import suppress

from benchmarks.abuse.target import ROOMS_PATH, SOCKET_IO_PATH, Target, attack
from benchmarks.clients import WebSocket


@attack
def cheap_frames(target: Target) -> None:
    """As many small frames as the kernel takes, on many connections."""
    links = [target.owlmeans() for _ in range(50)]
    kinds: list[dict[str, object]] = [
        {"type": "call", "id": "1", "method": "broker.whoami", "payload": []},
        {"type": "call", "id": "1", "method": "broker.unsubscribe", "payload": ["x"]},
        {"type": "ping"},
        {"type": "nothing"},
        {"type": "event", "event": "a", "payload": 1},
    ]
    frames = b"".join(WebSocket.frame(json.dumps(kind)) for kind in kinds) * 100
    for link in links:
        link.socket.setblocking(False)
    while not target.over():
        for link in links:
            with suppress(BlockingIOError):
                link.socket.send(frames)
            link.discard()


@attack
def frames_and_gone(target: Target) -> None:
    """Frames that cost something, and a client that leaves at once."""
    register = target.owlmeans()
    register.call("broker.register", [f"m.{number}" for number in range(1000)])
    one = WebSocket.frame(json.dumps({"type": "call", "id": "1", "method": "broker.methods", "payload": []}))
    while not target.over():
        link = target.owlmeans()
        link.socket.sendall(one * 500)
        link.close()


@attack
def requests_in_one_go(target: Target) -> None:
    """HTTP requests that do not wait for their answers."""
    links = [socket.create_connection(("127.0.0.1", target.port)) for _ in range(20)]
    requests = b"GET /about HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500
    for link in links:
        link.setblocking(False)
    while not target.over():
        for link in links:
            with suppress(BlockingIOError):
                link.send(requests)
            with suppress(BlockingIOError):
                while link.recv(1 << 20):
                    pass


@attack
def packets_in_one_post(target: Target) -> None:
    """Hundreds of thousands of Engine.IO packets in the body of one POST."""
    path = SOCKET_IO_PATH.format("polling")
    packets = [b"\x1e".join([b"6"] * 400_000), b"\x1e".join([b'42["heartbeat"]'] * 50_000)]
    while not target.over():
        for body in packets:
            sid = json.loads(target.get(path).split(b"\r\n\r\n0", 1)[1])["sid"]
            target.post(f"{path}&sid={sid}", "40")
            target.post(f"{path}&sid={sid}", body.decode("latin-1"))


@attack
def pings(target: Target) -> None:
    """As many WebSocket pings as fit into one read, on many connections."""
    links = [target.owlmeans() for _ in range(20)]
    frames = WebSocket.frame("", 0x89) * 100_000
    for link in links:
        link.socket.setblocking(False)
    while not target.over():
        for link in links:
            with suppress(BlockingIOError):
                link.socket.send(frames)
            link.discard()


@attack
def opened_and_closed(target: Target) -> None:
    """Connections that are opened and closed again in a loop."""
    while not target.over():
        links = [target.websocket(path) for path in ("/owlmeans", ROOMS_PATH, "/ws?apiKey=x") * 20]
        for link in links:
            link.close()
        target.kept.clear()


@attack
def all_closed_at_once(target: Target) -> None:
    """Hundreds of connections whose closing handshake is begun, and not ended, at one moment."""
    while not target.over():
        links = [target.owlmeans() for _ in range(900)]
        for link in links:
            link.socket.sendall(WebSocket.frame("x", 0x83))  # a wrong frame: the daemon closes, and waits
        target.sleep(1.5)
        for link in links:
            link.close()
        target.kept.clear()


@attack
def heads(target: Target) -> None:
    """Request heads as long as they may be: headers, query, and what a server has to read of them."""
    query = "&".join(f"a{number}=%41" for number in range(1500))[:7500]
    headers = "".join(f"x{number}: {number}\r\n" for number in range(90))
    lists = f"Accept: {'a/b;q=0.1,' * 300}\r\nAccept-Encoding: {'gzip;q=0.1,' * 250}\r\nRange: bytes={'0-1,' * 300}\r\n"
    while not target.over():
        for path in ("/health", "/events/v1/events", "/about", "/socket.io/", "/token/websocket"):
            for more in (headers, lists):
                with suppress(OSError):
                    target.get(f"{path}?{query}", more)


@attack
def forms(target: Target) -> None:
    """Bodies of a megabyte that are forms of very many parameters."""
    said = "&".join(f"a{number}=%41" for number in range(80_000))
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    while not target.over():
        for path in ("/events/v1/events", "/token/websocket", "/socket.io/", "/owlmeans"):
            with suppress(OSError):
                target.post(path, said, kind)
