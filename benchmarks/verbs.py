"""What a verb costs in the core alone: microseconds for each, the best of several rounds.

    python -m benchmarks.verbs

No network and no dialect: a publication to one and to ten subscribers, a call with its answer, and a stored
event, in memory.  It shows what is added to every message, which a benchmark with sockets hides in its noise.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import thread_time
from typing import Any

from broker.messages import Request
from broker.testing import make_broker, value_of

ROUNDS, TIMES = 15, 5000


class Echo:
    """A session that answers each request at once, and drops the rest."""

    def __init__(self, peer: Any) -> None:
        self._peer = peer

    def event(self, event: Any, pattern: str) -> None:
        """Drop it."""

    def reply(self, reply: Any) -> None:
        """Drop it."""

    def request(self, request: Any) -> None:
        """Answer it."""
        self._peer.answer(request.id, request.body)


def best(work: Callable[[], object]) -> float:
    """Return the microseconds that *work* takes, in the quickest of the rounds."""
    quickest = float("inf")
    for _ in range(ROUNDS):
        began = thread_time()
        for _ in range(TIMES):
            work()
        quickest = min(quickest, thread_time() - began)
    return quickest / TIMES * 1e6


def main() -> None:
    """Measure, and print a line for each verb."""
    broker = make_broker()
    peers: list[Any] = [broker.attach("test", "127.0.0.1") for _ in range(11)]
    for peer in peers:
        peer.bind(Echo(peer))
    client, *others = peers
    others[0].subscribe("one")
    for other in others:
        other.subscribe("ten")
    value_of(others[0].perform(["echo"]))
    request = Request("", "echo", "", "", b"[]", timeout=60.0)
    verbs: dict[str, Callable[[], object]] = {
        "publish to one": lambda: client.publish("one", "event", b"{}"),
        "publish to ten": lambda: client.publish("ten", "event", b"{}"),
        "call": lambda: client.call("ref", request),
        "post": lambda: client.post("log", "event", b"{}"),
    }
    for name, work in verbs.items():
        if len(sys.argv) < 2 or sys.argv[1] in name:
            print(f"{name:16}{best(work):8.2f} us")


if __name__ == "__main__":
    main()
