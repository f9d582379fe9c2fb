"""The daemon under attack, and the table of attacks."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import attrs

from benchmarks.clients import WebSocket, post, raw_request

MEGABYTE = 900_000  # bytes of a message that is just not too large

MESSAGE_PATH = "/owlmeans"
KEYS_PATH = "/ws?apiKey=x"
ROOMS_PATH = "/thinws"
EVENTS_PATH = "/events/v1/events"
SOCKET_IO_PATH = "/socket.io/?EIO=4&transport={}&serviceName=me"
HOST = "HTTP/1.1\r\nHost: localhost\r\n"


@attrs.define
class Target:
    """The daemon that is attacked, and until when."""

    port: int
    end: float
    kept: list[object] = attrs.field(factory=list)  # connections that last as long as the attack

    def over(self) -> bool:
        return time.monotonic() > self.end

    def sleep(self, seconds: float = 0.2) -> None:
        time.sleep(min(seconds, max(0.0, self.end - time.monotonic())))

    def repeat(self, act: Callable[[], object], pause: float = 0.0) -> None:
        """Do *act* again and again, though the daemon may end connections."""
        while not self.over():
            with suppress(OSError, EOFError):
                act()
            self.sleep(pause)

    def websocket(self, path: str, receive: int = 0) -> WebSocket:
        """Return a new client; with *receive*, a receive buffer of so many bytes."""
        link = WebSocket(self.port, path, receive)
        self.kept.append(link)
        return link

    def owlmeans(self, receive: int = 0) -> WebSocket:
        return self.websocket(MESSAGE_PATH, receive)

    def hpkv(self, path: str = KEYS_PATH) -> WebSocket:
        return self.websocket(path)

    def connect(self, data: bytes = b"", receive: int = 0) -> socket.socket:
        """Return a new connection on which *data* was sent."""
        link = socket.socket()
        link.settimeout(5.0)
        if receive:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        link.connect(("127.0.0.1", self.port))
        self.kept.append(link)
        link.sendall(data)
        return link

    def get(self, path: str, headers: str = "") -> bytes:
        return raw_request(self.port, f"GET {path} {HOST}{headers}")

    def post(self, path: str, said: object, headers: dict[str, str] | None = None) -> bytes:
        return post(self.port, path, said, headers)

    def token(self, **asked: object) -> str:
        """Return a minted token, or "" when it was refused."""
        answer = self.post("/token/websocket", asked, {"x-api-key": "x"})
        return str(json.loads(answer.split(b"\r\n\r\n", 1)[1])["token"]) if b'"token"' in answer else ""

    def fill(self, keys: Iterable[tuple[str, str]]) -> None:
        """Set *keys*, in batches."""
        link = self.hpkv()
        waiting = 0
        for number, (key, value) in enumerate(keys):
            link.send({"op": 2, "key": key, "value": value, "messageId": number})
            waiting += 1
            if waiting >= 200:
                link.wait(waiting)
                waiting = 0
        link.wait(waiting)
        link.close()


Attack = Callable[[Target], None]
ATTACKS: dict[str, Attack] = {}


def attack(act: Attack) -> Attack:
    """Add *act* to the table, under its name."""
    ATTACKS[act.__name__.replace("_", " ")] = act
    return act


@attack
def nothing(target: Target) -> None:
    """No attack: what the machine itself costs."""
    target.sleep(target.end)
