"""Clients that do not wait, and need no library: what an attacker writes."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import time
from contextlib import suppress
from itertools import count
from typing import Any

TIMEOUT = 60.0  # seconds for one answer


class WebSocket:
    """A blocking WebSocket client that masks with zeros; with *receive*, its receive buffer has so many bytes."""

    def __init__(self, port: int, path: str, receive: int = 0) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(TIMEOUT)
        if receive:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._buffer = b""
        self._ids = count()
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        self._buffer = self._buffer.partition(b"\r\n\r\n")[2]

    @staticmethod
    def frame(message: str | bytes, first: int = 0) -> bytes:
        """Return the frame of a message, of text or of bytes; *first* is its first byte, where that is another."""
        first = first or (0x81 if isinstance(message, str) else 0x82)
        data = message.encode() if isinstance(message, str) else message
        size = len(data)
        if size < 126:
            head = struct.pack(">BB", first, 0x80 | size)
        elif size < 65536:
            head = struct.pack(">BBH", first, 0xFE, size)
        else:
            head = struct.pack(">BBQ", first, 0xFF, size)
        return head + bytes(4) + data

    def send(self, message: str | bytes | dict[str, Any]) -> None:
        if isinstance(message, dict):
            message = json.dumps(message)
        self.socket.sendall(self.frame(message))

    def send_call(self, method: str, *arguments: object) -> str:
        """Call a method of the native dialect; return the id."""
        id = f"c{next(self._ids)}"
        self.send({"type": "call", "id": id, "method": method, "payload": arguments})
        return id

    def call(self, method: str, *arguments: object, timeout: float = TIMEOUT) -> None:
        """Call a method and wait for its answer, dropping what comes before."""
        id = f'"{self.send_call(method, *arguments)}"'.encode()
        end = time.monotonic() + timeout
        while id not in self.receive() and time.monotonic() < end:
            pass

    def wait(self, messages: int) -> None:
        """Drop so many messages."""
        for _ in range(messages):
            self.receive()

    def drain(self, silence: float = 1.0) -> None:
        """Drop what comes until nothing has come for *silence* seconds."""
        self.socket.settimeout(silence)
        with suppress(TimeoutError):
            while True:
                self._buffer = b""
                self._fill()
        self._buffer = b""
        self.socket.settimeout(TIMEOUT)

    def discard(self) -> None:
        """Drop what has come, without waiting."""
        with suppress(BlockingIOError):
            while self.socket.recv(1 << 20, socket.MSG_DONTWAIT):
                pass

    def receive(self) -> bytes:
        """Return the next message.

        Raises:
            EOFError: the connection has ended.
        """
        while True:
            self._need(2)
            first, size, start = self._buffer[0], self._buffer[1], 2
            if size == 126:
                self._need(4)
                size, start = int.from_bytes(self._buffer[2:4]), 4
            elif size == 127:
                self._need(10)
                size, start = int.from_bytes(self._buffer[2:10]), 10
            self._need(start + size)
            data, self._buffer = self._buffer[start : start + size], self._buffer[start + size :]
            if first & 15 in (1, 2):
                return data
            if first & 15 == 8:
                raise EOFError(data)

    def close(self) -> None:
        self.socket.close()

    def _need(self, size: int) -> None:
        while len(self._buffer) < size:
            self._fill()

    def _fill(self) -> None:
        data = self.socket.recv(1 << 18)
        if not data:
            raise EOFError
        self._buffer += data


def raw_request(port: int, head: str, body: bytes = b"", timeout: float = TIMEOUT) -> bytes:
    """Send a request, close after the answer, and return that."""
    with socket.create_connection(("127.0.0.1", port), timeout) as link:
        link.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
        answer = b""
        while data := link.recv(1 << 18):
            answer += data
        return answer


def post(port: int, path: str, said: object, headers: dict[str, str] | None = None) -> bytes:
    """POST *said*: JSON, or a text as it is."""
    body = (said if isinstance(said, str) else json.dumps(said)).encode("latin-1")
    kind = "text/plain" if "socket.io" in path else "application/json"
    fields = {"Host": f"127.0.0.1:{port}", "Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return raw_request(port, f"POST {path} HTTP/1.1\r\n{head}", body)
