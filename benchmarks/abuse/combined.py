"""The worst of the others together, and on many connections at once."""

from __future__ import annotations

import random
import socket
import threading
import zlib
from contextlib import suppress

from benchmarks.abuse.target import ATTACKS, EVENTS_PATH, HOST, ROOMS_PATH, Target, attack
from benchmarks.abuse.texts import hostile_texts
from benchmarks.clients import WebSocket

CONNECTIONS = 50


def send_at_once(target: Target, links: list[socket.socket], said: bytes) -> None:
    """Send all but the last byte of *said* on each link, and then the last bytes at one moment."""
    for link in links:
        link.sendall(said[:-1])
    target.sleep(0.3)
    for link in links:
        link.sendall(said[-1:])


def worst_at_once(target: Target, path: str, template: str) -> None:
    while not target.over():
        for text in hostile_texts().values():
            with suppress(OSError, EOFError):
                links = [target.websocket(path) for _ in range(CONNECTIONS)]
                send_at_once(target, [link.socket for link in links], WebSocket.frame(template % text))
                for link in links:
                    link.drain(0.05)
                    link.close()
            target.kept.clear()


@attack
def owlmeans_at_once(target: Target) -> None:
    """Fifty connections whose worst messages are complete at the same moment."""
    worst_at_once(target, "/owlmeans", '{"type":"event","event":"a","payload":%s}')


@attack
def thinws_at_once(target: Target) -> None:
    worst_at_once(target, ROOMS_PATH, '{"type":"message","roomID":"r","messageID":1,"message":%s}')


@attack
def small_at_once(target: Target) -> None:
    """The same with messages of 60 kB on 500 connections."""
    text = "[1e300" + ",1.5" * 15_000 + "]"
    links = [target.owlmeans() for _ in range(500)]
    said = WebSocket.frame('{"type":"event","event":"a","payload":%s}' % text)
    while not target.over():
        send_at_once(target, [link.socket for link in links], said)


@attack
def ganomede_at_once(target: Target) -> None:
    """Fifty requests with the worst bodies, complete at the same moment."""
    while not target.over():
        for text in hostile_texts().values():
            said = '{"clientId":"a","channel":"c","from":"a","type":"t","data":{"a":%s}}' % text
            head = f"POST {EVENTS_PATH} {HOST}Content-Type: application/json\r\nContent-Length: {len(said)}\r\n\r\n"
            with suppress(OSError):
                links = [target.connect() for _ in range(CONNECTIONS)]
                send_at_once(target, links, (head + said).encode("latin-1"))
                target.sleep(1.0)
                for link in links:
                    link.close()
            target.kept.clear()


@attack
def compressed_bodies(target: Target) -> None:
    """Bodies that are long only when they are decompressed."""
    packed = zlib.compressobj(9, wbits=31)
    bomb = packed.compress(b" " * 100_000_000) + packed.flush()
    packed = zlib.compressobj(9, wbits=31)
    floats = hostile_texts()["floats"].encode()
    texts = [bomb, packed.compress(b'{"data":' + floats + b"}") + packed.flush()]
    while not target.over():
        for text in texts:
            head = f"POST {EVENTS_PATH} {HOST}Content-Type: application/json\r\nContent-Encoding: gzip\r\n"
            with suppress(OSError):
                link = target.connect(f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text)
                link.recv(1000)
                link.close()


@attack
def tokens_of_many_patterns(target: Target) -> None:
    """Tokens with as many expressions as one may have, of the worst kind."""
    while not target.over():
        patterns = [f"([ab]*a[ab]{{{40 + number}}}){{1,3}}{number}$" for number in range(32)]
        target.token(accessPattern="(.*a.*b.*){10}c", subscribePatterns=patterns)
        target.token(accessPattern="[^a]{1,100}" * 10, subscribePatterns=["\\w{1,90}\\d{1,90}"] * 32)


@attack
def tokens_in_use(target: Target) -> None:
    """Tokens with expressions that can use much memory, in use while keys change that they are tried on."""
    writer, sent = target.hpkv(), 0
    while not target.over():
        with suppress(OSError, EOFError):
            token = target.token(subscribePatterns=[f"[ab]*a[ab]{{{100 + sent % 150}}}c?{sent}"])
            if token:
                target.hpkv(f"/ws?token={token}")
            for _ in range(20):
                sent += 1
                key = "".join("ab"[bit == "1"] for bit in f"{random.getrandbits(300):b}")
                writer.send({"op": 2, "key": key, "value": "", "messageId": sent})


@attack
def all_together(target: Target) -> None:
    """The worst of the others at the same time, each on connections of its own."""
    names = ("json owlmeans", "json ganomede", "json thinws", "methods listed", "fan out", "cheap frames", "pings")
    threads = [threading.Thread(target=ATTACKS[name], args=(target,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    target.sleep(target.end)
