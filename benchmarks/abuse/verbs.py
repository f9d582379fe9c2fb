"""Indices, calls, methods, subscriptions."""

from __future__ import annotations

import json
import socket

from benchmarks.abuse.target import Target, attack
from benchmarks.clients import WebSocket


@attack
def index_rows(target: Target) -> None:
    """An index of thousands of rows, none beside another."""
    target.post("/events/v1/indices", {"id": "i", "channel": "c", "field": "type"})
    said = [json.dumps({"clientId": "a", "channel": "c", "from": "a", "type": kind, "data": {}}) for kind in "xy"]
    requests = b"".join(
        b"POST /events/v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body.encode())
        for body in said
    )
    links = [socket.create_connection(("127.0.0.1", target.port)) for _ in range(100)]
    for _ in range(50):
        for link in links:
            link.sendall(requests)
        for link in links:
            answers = b""
            while answers.count(b"HTTP/1.1 ") < len(said):
                answers += link.recv(1 << 16)
    while not target.over():
        target.get("/events/v1/indices/i/x")


@attack
def methods_listed(target: Target) -> None:
    """A hundred thousand methods, listed again and again."""
    links = []
    for client in range(100):
        link = target.owlmeans()
        link.call("broker.register", [f"m{client}.{number}.some.method" for number in range(1000)], timeout=30)
        links.append(link)
    while not target.over():
        for number in range(50):
            links[0].send_call("broker.methods", "*.*.*.none" if number % 2 else ">")
        links[0].drain(0.5)


@attack
def calls_that_expire(target: Target) -> None:
    """Ten thousand calls that end at the same moment."""
    one = WebSocket.frame(json.dumps({"type": "call", "id": "x", "method": "me", "timeout": 900, "payload": []}))
    callee, caller = target.owlmeans(), target.owlmeans()
    callee.call("broker.register", "me")
    while not target.over():
        for _ in range(100):
            caller.socket.sendall(one * 100)
            callee.discard()
            caller.discard()
        caller.drain(1.0)


@attack
def calls_to_oneself(target: Target) -> None:
    """Ten thousand calls that wait, and a client that leaves."""
    while not target.over():
        link = target.owlmeans()
        link.call("broker.register", "me")
        other = target.owlmeans()
        for sender in (link, other):
            one = WebSocket.frame(json.dumps({"type": "call", "id": "x", "method": "me", "timeout": 0, "payload": []}))
            for _ in range(100):
                sender.socket.sendall(one * 100)
                link.discard()
        link.close()
        other.drain(0.5)
        other.close()


@attack
def subscriptions_left(target: Target) -> None:
    """A thousand subscriptions and names at once, and a client that leaves."""
    names = [f"some.topic.{number}.*" for number in range(1000)]
    while not target.over():
        link = target.owlmeans()
        link.call("broker.subscribe", names)
        link.call("broker.register", [f"name.{number}" for number in range(1000)])
        link.close()


@attack
def fan_out(target: Target) -> None:
    """Five hundred subscriptions of the attacker's own, and events for them."""
    links = [target.owlmeans() for _ in range(500)]
    for link in links:
        link.call("broker.subscribe", "news")
    one = WebSocket.frame(json.dumps({"type": "event", "event": "news", "payload": "x" * 100}))
    sender = target.owlmeans()
    while not target.over():
        sender.socket.sendall(one * 20)
        for link in links:
            link.discard()


@attack
def jobs_left(target: Target) -> None:
    """Ten thousand jobs of a client that leaves, again and again."""
    queues = [f"left.{number}" for number in range(10)]
    sender = target.owlmeans()
    for queue in queues:
        one = json.dumps({"type": "call", "id": "x", "method": "broker.enqueue", "payload": [queue, 1]})
        for _ in range(2):
            sender.socket.sendall(WebSocket.frame(one) * 500)
            sender.wait(500)
    while not target.over():
        link = target.owlmeans()
        for queue in queues:
            link.send_call("broker.consume", queue, {"ack": True, "prefetch": 1000})
        link.drain(1.0)
        link.close()


@attack
def filters(target: Target) -> None:
    """Hundreds of consumers that filter, and jobs that none of them takes."""
    links = [target.owlmeans() for _ in range(300)]
    for number, link in enumerate(links):
        link.call("broker.consume", "filtered", {"filter": {"kind": number}})
    sender = target.owlmeans()
    one = {"type": "call", "id": "x", "method": "broker.enqueue", "payload": ["filtered", {"kind": -1}]}
    while not target.over():
        sender.socket.sendall(WebSocket.frame(json.dumps(one)) * 200)
        sender.wait(200)


@attack
def key_of_very_many(target: Target) -> None:
    """A key that two thousand connections of the attacker watch, and its changes."""
    links = [target.owlmeans() for _ in range(2000)]
    for link in links:
        link.call("broker.watch", "hot.*")
    sender, sent = target.owlmeans(), 0
    while not target.over():
        sent += 1
        sender.call("broker.set", "hot.key", sent)
        for link in links:
            link.discard()
