"""What one client can do to all others, at his worst: for each attack the worst lag of /health, and the memory.

Each attack is made for some seconds against a daemon of its own.  Meanwhile another process asks for
``/health`` every 5 ms, on a new connection each time, and notes how long the answer took.

Usage: ``python -m benchmarks.abuse [SECONDS] [ROUNDS] [NAME …]``.  A new attack is a function
with ``@attack``, that gets a ``Target`` and does its worst until ``target.over()``.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path

import attrs

from benchmarks.clients import WebSocket, post, raw_request
from benchmarks.servers import Broker, Missing

SECONDS = 10.0  # of each attack
ROUNDS = 3
PERIOD = 0.005  # seconds between two questions for /health
SETTLING = 2.0  # seconds from the end of an attack to the look at what memory is left
PATIENCE = 60.0  # seconds for one answer of /health
MAX_LAG = 0.050  # seconds
MAX_GROWTH, MAX_LEFT = 32.0, 4.0  # MiB, while an attack lasts and after it
MEGABYTE = 900_000  # bytes of a message that is just not too large

MESSAGE_PATH = "/owlmeans"
KEYS_PATH = "/ws?apiKey=x"
ROOMS_PATH = "/thinws"


@attrs.define
class Target:
    """The daemon that is attacked, and until when."""

    port: int
    end: float

    def over(self) -> bool:
        return time.monotonic() > self.end

    def owlmeans(self) -> WebSocket:
        return WebSocket(self.port, MESSAGE_PATH)

    def hpkv(self, path: str = KEYS_PATH) -> WebSocket:
        return WebSocket(self.port, path)

    def fill(self, keys: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> None:
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
    while not target.over():
        time.sleep(0.1)


# Patterns


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
            post(target.port, "/token/websocket", {"accessPattern": pattern}, {"x-api-key": "x"})


@attack
def expression_matched(target: Target) -> None:
    """Expressions that take long for a long key."""
    for pattern in ("(.?){200}x", "(.*a.*b.*){10}c", "[ab]*a[ab]{200}$", "(a|b)*a(a|b){60}c"):
        answer = post(target.port, "/token/websocket", {"accessPattern": pattern}, {"x-api-key": "x"})
        if b'"token"' not in answer:
            continue
        token = json.loads(answer.split(b"\r\n\r\n", 1)[1])["token"]
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
        asked = {"subscribePatterns": [f"[ab]*a[ab]{{60}}{number}$"], "accessPattern": ".*"}
        answer = post(target.port, "/token/websocket", asked, {"x-api-key": "x"})
        if b'"token"' in answer:
            token = json.loads(answer.split(b"\r\n\r\n", 1)[1])["token"]
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
    answer = post(target.port, "/token/websocket", {"accessPattern": "^none$"}, {"x-api-key": "x"})
    token = json.loads(answer.split(b"\r\n\r\n", 1)[1])["token"]
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


# JSON


def hostile_texts() -> dict[str, str]:
    """JSON texts of nearly a megabyte that cost more than others."""
    return {
        "floats": "[1e100" + ",1.5" * (MEGABYTE // 4) + "]",
        "exponents": "[1" + ",1e308" * (MEGABYTE // 6) + "]",
        "infinite in texts": "[1" + ',"1e999"' * (MEGABYTE // 8) + "]",
        "digits": "[" + "9" * 300 + "," + "1" * MEGABYTE + "]",
        "digits of many numbers": "[1" + ("," + "1" * 305) * (MEGABYTE // 306) + "]",
        "arrays": "[1" + ",[]" * (MEGABYTE // 3) + "]",
        "nesting": "[" * (MEGABYTE // 2) + "]" * (MEGABYTE // 2),
        "members": "{" + ",".join(f'"{number}":1' for number in range(MEGABYTE // 10)) + "}",
        "surrogates": '{"\\ud800":1,' + ",".join(f'"{number}":1' for number in range(MEGABYTE // 10)) + "}",
        "surrogate values": "[1" + ',"\\ud800"' * (MEGABYTE // 9) + "]",
    }


@attack
def json_owlmeans(target: Target) -> None:
    link = target.owlmeans()
    texts = list(hostile_texts().values())
    while not target.over():
        for text in texts:
            link.send('{"type":"event","event":"a","payload":%s}' % text)
            link.send('{"type":"call","id":"a","method":"b","payload":[%s]}' % text)
            link.send(text)
        link.call("broker.whoami", timeout=30)


@attack
def json_hpkv(target: Target) -> None:
    texts = list(hostile_texts().values())
    while not target.over():
        link = target.hpkv()
        for text in texts:
            with suppress(OSError, EOFError):
                link.send('{"op":2,"key":"a","value":%s,"messageId":1}' % text)
                link.send('{"op":2,"key":"a","value":1,"messageId":%s}' % text)
                link.send(text)
        with suppress(OSError, EOFError):
            link.drain(0.5)
        link.close()


@attack
def json_thinws(target: Target) -> None:
    texts = list(hostile_texts().values())
    while not target.over():
        link = WebSocket(target.port, ROOMS_PATH)
        with suppress(OSError, EOFError):
            for text in texts:
                link.send('{"type":"message","roomID":"r","messageID":1,"message":%s}' % text)
                link.send(text)
            link.drain(0.5)
        link.close()


@attack
def json_ganomede(target: Target) -> None:
    texts = list(hostile_texts().values())
    while not target.over():
        for text in texts:
            said = '{"clientId":"a","channel":"c","from":"a","type":"t","data":{"a":%s}}' % text
            post(target.port, "/events/v1/events", said)
            post(target.port, "/events/v1/events", text)


@attack
def json_index(target: Target) -> None:
    """An index over large events, read again and again."""
    texts = list(hostile_texts().values())
    for number in range(4):
        asked = {"id": f"i{number}", "channel": "c", "field": "data.a.b[0].c"}
        post(target.port, "/events/v1/indices", asked)
    round_ = 0
    while not target.over():
        for text in texts:
            said = '{"clientId":"a","channel":"c","from":"a","type":"t","data":{"a":{"b":%s}}}' % text
            post(target.port, "/events/v1/events", said)
        for number in range(4):
            raw_request(target.port, f"GET /events/v1/indices/i{number}/x HTTP/1.1\r\nHost: localhost\r\n")
        round_ += 1


@attack
def json_microstream(target: Target) -> None:
    texts = list(hostile_texts().values())
    while not target.over():
        with suppress(OSError, EOFError):
            link = WebSocket(target.port, "/socket.io/?EIO=4&transport=websocket&serviceName=me")
            link.send("40")
            link.drain(0.3)
            for text in texts:
                said = '{"targetService":"me","payload":{"id":"1","event":"e","data":%s}}' % text
                link.send('42["request",%s]' % said)
                link.send('42["response",{"id":"1","response":%s}]' % text)
                link.send('451-["request",%s]' % said)
                link.send(b"x")
            link.drain(0.5)
            link.close()


@attack
def json_patched(target: Target) -> None:
    """Objects of many members, merged again and again."""
    link = target.hpkv()
    half = json.dumps({str(number): 1 for number in range(MEGABYTE // 24)})
    link.send({"op": 2, "key": "k", "value": half, "messageId": 1})
    link.wait(1)
    while not target.over():
        for _ in range(4):
            link.send({"op": 3, "key": "k", "value": half, "messageId": 1})
        link.wait(4)


# Indices, calls, methods


@attack
def index_rows(target: Target) -> None:
    """An index of thousands of rows, none beside another."""
    post(target.port, "/events/v1/indices", {"id": "i", "channel": "c", "field": "type"})
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
        raw_request(target.port, "GET /events/v1/indices/i/x HTTP/1.1\r\nHost: localhost\r\n")


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
    path = "/socket.io/?EIO=4&transport=polling&serviceName=me"
    packets = [b"\x1e".join([b"6"] * 400_000), b"\x1e".join([b'42["heartbeat"]'] * 50_000)]
    while not target.over():
        for body in packets:
            answer = raw_request(target.port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n")
            sid = json.loads(answer.split(b"\r\n\r\n0", 1)[1])["sid"]
            post(target.port, f"{path}&sid={sid}", "40")
            post(target.port, f"{path}&sid={sid}", body.decode("latin-1"))


# Measuring


@attrs.frozen
class Result:
    """Worst lag in seconds, and the memory in MiB: more than before while the attack lasted, and after it."""

    lag: float
    growth: float
    left: float


def watch_health(port: int, stop: Event, worst: Synchronized[float]) -> None:
    """Keep the worst lag in *worst* until *stop* is set."""
    while not stop.is_set():
        began = time.monotonic()
        with suppress(OSError):
            raw_request(port, "GET /health HTTP/1.1\r\nHost: localhost\r\n", timeout=PATIENCE)
        took = time.monotonic() - began
        worst.value = max(worst.value, took)
        time.sleep(max(0.0, PERIOD - took))


def run_attack(name: str, port: int, end: float) -> None:
    with suppress(OSError, EOFError):
        ATTACKS[name](Target(port, end))


@contextmanager
def daemon(directory: Path) -> Iterator[Broker]:
    server = Broker(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def measure(name: str, seconds: float, directory: Path) -> Result:
    with daemon(directory) as server:
        raw_request(server.port, "GET /ready HTTP/1.1\r\nHost: localhost\r\n")
        before = server.resident_kib()
        stop, worst = multiprocessing.Event(), multiprocessing.Value("d", 0.0)
        watcher = multiprocessing.Process(target=watch_health, args=(server.port, stop, worst))
        attacker = multiprocessing.Process(target=run_attack, args=(name, server.port, time.monotonic() + seconds))
        watcher.start()
        attacker.start()
        growth = 0
        while attacker.is_alive():
            growth = max(growth, server.resident_kib() - before)
            attacker.join(0.05)
        stop.set()
        watcher.join()
        time.sleep(SETTLING)
        return Result(worst.value, growth / 1024, (server.resident_kib() - before) / 1024)


def report(name: str, results: list[Result]) -> bool:
    lag, growth, left = (max(getattr(result, field) for result in results) for field in ("lag", "growth", "left"))
    good = lag <= MAX_LAG and growth <= MAX_GROWTH and left <= MAX_LEFT
    lags = " ".join(f"{result.lag * 1000:6.0f}" for result in results)
    print(f"{name:24} {lags} ms {growth:8.1f} MiB {left:8.1f} MiB {'' if good else 'NOT REACHED'}", flush=True)
    return good


def main(arguments: list[str]) -> int:
    numbers = [float(word) for word in arguments if word.replace(".", "").isdigit()]
    names = [word.replace("_", " ") for word in arguments if not word.replace(".", "").isdigit()] or list(ATTACKS)
    seconds, rounds = (*numbers, *(SECONDS, ROUNDS)[len(numbers) :])
    print(f"{'attack':24} worst lag of /health, memory while it lasts, {SETTLING:.0f} s after it")
    good = True
    for name in names:
        results = []
        for _ in range(int(rounds)):
            with tempfile.TemporaryDirectory() as directory:
                try:
                    results.append(measure(name, seconds, Path(directory)))
                except Missing as reason:
                    sys.exit(str(reason))
        good &= report(name, results)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
