"""Patterns, expressions, and what is asked of many keys."""

from __future__ import annotations

import json
import time

from benchmarks.abuse.target import HOST, MEGABYTE, Target, attack
from benchmarks.clients import WebSocket


@attack
def pattern_tree(target: Target) -> None:
    """A thousand patterns with many wildcards, and topics that go down every branch of them."""
    link = target.owlmeans()
    patterns = []
    for number in range(1000):
        bits = [(number >> bit) & 1 for bit in range(10)]
        patterns.append(".".join(["*", *("*" if bit else "a" for bit in bits), *["*"] * 20, f"z{number}"]))
    for start in range(0, 1000, 100):
        link.call("broker.subscribe", patterns[start : start + 100])
    other = target.owlmeans()
    number = 0
    while not target.over():
        other.send({"type": "event", "event": ".".join([f"x{number}", *["a"] * 31]), "payload": 1})
        number += 1
        if number % 100 == 0:
            other.call("broker.whoami")


@attack
def watches(target: Target) -> None:
    """Thousands of watched patterns, and keys that nearly match."""
    for client in range(5):
        link = target.owlmeans()
        for number in range(1000):
            link.send_call("broker.watch", f"a.*.b{number}.c{client}")
        link.drain()
    keys = target.hpkv()
    number = 0
    while not target.over():
        keys.send({"op": 2, "key": f"a.q{number}.zz", "value": "1", "messageId": number})
        keys.wait(1)
        number += 1


@attack
def watch_snapshots(target: Target) -> None:
    """Patterns that match few of many keys, watched again and again."""
    target.fill([(f"a.k{number}.x", "1") for number in range(50_000)])
    links = [target.owlmeans() for _ in range(4)]
    while not target.over():
        for link in links:
            for _ in range(20):
                link.send_call("broker.watch", "a.*.y")
                link.send_call("broker.unwatch", "a.*.y")
        for link in links:
            link.drain(0.2)


@attack
def pattern_lists(target: Target) -> None:
    """One frame that names a hundred thousand patterns."""
    link = target.owlmeans()
    names = [f"n{number}" for number in range(100_000)]
    frame = {"type": "call", "id": "x", "payload": [names]}
    while not target.over():
        for method in ("unsubscribe", "unregister", "subscribe", "register"):
            link.send({**frame, "method": f"broker.{method}"})
        link.drain(0.2)


# Regular expressions

HOSTILE = "(x+x+)+y(x{1,50}y){1,4}z"


@attack
def expression_compiled(target: Target) -> None:
    """Expressions that are long when they are written out."""
    nested = "((((){255}){255}){255}){255}"
    while not target.over():
        for pattern in (nested, "((a{1,9}){1,9}){1,9}", "(((((.{9}){9}){9})){9})", "\\w{100}" * 25):
            target.token(accessPattern=pattern)


@attack
def expression_matched(target: Target) -> None:
    """Expressions that take long for a long key."""
    for pattern in ("(.?){200}x", "(.*a.*b.*){10}c", "[ab]*a[ab]{200}$", "(a|b)*a(a|b){60}c"):
        token = target.token(accessPattern=pattern)
        if not token:
            continue
        link = target.hpkv(f"/ws?token={token}")
        end = time.monotonic() + max(1.0, (target.end - time.monotonic()) / 4)
        number = 0
        while time.monotonic() < end and not target.over():
            for _ in range(50):
                key = "".join("ab"[(number * 2654435761 >> bit) & 1] for bit in range(31)) * 33
                link.send({"op": 1, "key": f"{number}" + key[:1000], "messageId": number})
                number += 1
            link.wait(50)


@attack
def expression_watched(target: Target) -> None:
    """Many clients watch by expressions that take long, and keys change."""
    links = []
    for number in range(50):
        token = target.token(subscribePatterns=[f"[ab]*a[ab]{{60}}{number}$"], accessPattern=".*")
        if token:
            links.append(target.hpkv(f"/ws?token={token}"))
    writer = target.hpkv()
    number = 0
    while not target.over():
        key = "".join("ab"[(number * 2654435761 >> bit) & 1] for bit in range(31)) * 33
        writer.send({"op": 2, "key": f"{number}" + key[:1000], "value": "1", "messageId": number})
        writer.wait(1)
        number += 1


# Many keys


@attack
def range_of_few(target: Target) -> None:
    """A RANGE over fifty thousand keys of which a token may see none."""
    target.fill([(f"k{number:06}", "1") for number in range(50_000)])
    token = target.token(accessPattern="^none$")
    links = [target.hpkv(f"/ws?token={token}") for _ in range(10)]
    while not target.over():
        for link in links:
            link.send({"op": 5, "key": "k", "endKey": "k~", "messageId": 1})
        for link in links:
            link.wait(1)


@attack
def range_of_large(target: Target) -> None:
    """Forty RANGEs at once over values of a megabyte."""
    target.fill([(f"k{number:03}", "x" * MEGABYTE) for number in range(64)])
    link = target.owlmeans()
    while not target.over():
        for _ in range(40):
            link.send_call("broker.range", "k", "k~", {"limit": 1})
        link.drain(1.0)


@attack
def keys_that_expire(target: Target) -> None:
    """Thousands of keys that expire in the same second, watched by many patterns."""
    watcher = target.owlmeans()
    for number in range(500):
        watcher.send_call("broker.watch", f"*.{number}")
    watcher.send_call("broker.watch", ">")
    watcher.drain()
    link = target.owlmeans()
    number = 0
    while not target.over():
        for _ in range(2000):
            link.send_call("broker.set", f"e.{number}", "1", {"ttl": 1})
            number += 1
        link.drain()
        watcher.drain(0.05)


@attack
def changes_missed(target: Target) -> None:
    """Clients that were away for thousands of changes, of both dialects that tell them, and do not read long."""
    writer = target.owlmeans()
    writer.send_call("broker.watch", "none.>")
    began = json.loads(writer.receive())
    position = {name: began["payload"][name] for name in ("epoch", "revision")}
    target.fill([(f"k{number % 10}", "1") for number in range(9_900)])
    head = f"GET /v1/keys {HOST}Accept: text/event-stream\r\nLast-Event-ID: {position['epoch']}-{position['revision']}"
    while not target.over():
        links = [target.owlmeans() for _ in range(5)]
        for link in links:
            link.send_call("broker.watch", ">", {"from": position})
        streams = [target.connect(f"{head}\r\n\r\n".encode()) for _ in range(5)]
        for link in links:
            link.drain(0.1)
            link.close()
        for stream in streams:
            stream.close()


@attack
def writes_in_one_commit(target: Target) -> None:
    """Ten connections that write without waiting, watched by themselves."""
    links = [target.hpkv() for _ in range(10)]
    frame = b"".join(
        WebSocket.frame(json.dumps({"op": 2, "key": f"k{number}", "value": "1", "messageId": number}))
        for number in range(500)
    )
    while not target.over():
        for link in links:
            link.socket.sendall(frame)
        for link in links:
            link.wait(500)
