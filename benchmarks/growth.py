"""What an operation costs in the core with 10, 1,000 and 10,000 of what there may be many of: it must stay the same.

    python -m benchmarks.growth [words of the names]

No network and no dialect: a broker in memory.  For each it prints the microseconds of an operation, the best of
several rounds, and how many calls of functions it takes, which are the same on a busy machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import thread_time
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from broker.core.service import Broker
from broker.testing import make_broker, value_of

SIZES = 10, 1000, 10_000
ROUNDS, TIMES = 5, 400

Operation = Callable[[int], object]


@attrs.define(eq=False)
class Worker:
    """A session that drops what it gets, and says at once that a job is done."""

    peer: Any

    def event(self, event: Any, pattern: str) -> None:
        """Drop it."""

    def reply(self, reply: Any) -> None:
        """Drop it."""

    def request(self, request: Any) -> None:
        """Drop it."""

    def accepts_jobs(self, all_left: bool) -> bool:
        """Say yes."""
        return True

    def mail(self, mail: Any) -> bool:
        """Do the job."""
        self.peer.finish_job(mail.id)
        return True


def join(broker: Broker) -> Any:
    """Return a new client."""
    peer = broker.attach("test", "127.0.0.1")
    session: Any = Worker(peer)
    peer.bind(session)
    return peer


def topics(broker: Broker, size: int) -> Operation:
    """Publish on one of so many topics, each with a subscriber."""
    for number in range(size):
        join(broker).subscribe(f"t{number}")
    publish = join(broker).publish
    return lambda number: publish(f"t{number % size}", "event", b"{}")


def patterns(broker: Broker, size: int) -> Operation:
    """Publish what one of so many patterns matches."""
    for number in range(size):
        join(broker).subscribe(f"p{number}.*.end")
    publish = join(broker).publish
    return lambda number: publish(f"p{number % size}.x.end", "event", b"{}")


def logs(broker: Broker, size: int) -> Operation:
    """Store an event of one of so many topics, and deliver it to who follows that."""
    for number in range(size):
        peer = join(broker)
        follower = value_of(peer.follow(f"l{number}", "new", lambda event: True, lambda loss: None))
        follower.start()
    post = join(broker).post
    return lambda number: post(f"l{number % size}", "event", b"{}")


def polls(broker: Broker, size: int) -> Operation:
    """Store an event that one of so many polls waits for, which comes again."""
    reached = [0] * size
    peers = [join(broker) for _ in range(size)]

    def poll(number: int) -> None:
        waiting = peers[number].poll(f"l{number}", reached[number], 10, 60.0)
        Deferred.fromCoroutine(waiting).addCallback(lambda _: poll(number))

    for number in range(size):
        poll(number)
    post = join(broker).post

    def operation(number: int) -> None:
        reached[number % size] += 1
        post(f"l{number % size}", "event", b"{}")

    return operation


def queues(broker: Broker, size: int) -> Operation:
    """Add a job to one of so many queues, each with a consumer, which does it."""
    for number in range(size):
        join(broker).consume(f"q{number}", ack=True)
    add = join(broker).add_job
    return lambda number: add(f"q{number % size}", b"{}")


def consumers(broker: Broker, size: int) -> Operation:
    """Add a job to a queue with so many consumers, of which one does it."""
    for _ in range(size):
        join(broker).consume("q", ack=True)
    add = join(broker).add_job
    return lambda number: add("q", b"{}")


def consume(broker: Broker, size: int) -> Operation:
    """Consume a queue that has so many consumers, and leave it."""
    for _ in range(size):
        join(broker).consume("q", ack=True)
    peer = join(broker)

    def operation(number: int) -> None:
        peer.consume("q", ack=True)
        peer.stop_consuming("q")

    return operation


def subscribe(broker: Broker, size: int) -> Operation:
    """Subscribe to a topic that has so many subscribers, and leave it."""
    for _ in range(size):
        join(broker).subscribe("t")
    peer = join(broker)

    def operation(number: int) -> None:
        peer.subscribe("t")
        peer.unsubscribe("t")

    return operation


def cursors(broker: Broker, size: int) -> Operation:
    """Acknowledge an event by one of so many cursors of a topic."""
    peer, reached = join(broker), [0] * size
    for _ in range(3):
        value_of(peer.post("t", "event", b"{}"))

    def operation(number: int) -> None:
        cursor = number % size
        reached[cursor] += 1
        peer.move_cursor(f"c{cursor}", "t", 1 + reached[cursor] % 3)

    return operation


def keys(broker: Broker, size: int) -> Operation:
    """Set one of so many keys, each with a watcher."""
    for number in range(size):
        join(broker).watch_pattern(f"k{number}")
    peer = join(broker)
    return lambda number: peer.set(f"k{number % size}", b"1")


CURVES: list[Callable[[Broker, int], Operation]] = [
    topics,
    patterns,
    logs,
    polls,
    queues,
    consumers,
    consume,
    subscribe,
    cursors,
    keys,
]


def make_large_broker() -> Broker:
    """Return a broker in memory that allows as many of everything."""
    polls = 2 * max(SIZES)
    return make_broker(
        max_channels=0, max_cursors=0, max_keys=0, max_waiting_polls=polls, max_waiting_polls_per_client=polls
    )


def calls_of(operation: Operation, times: int = TIMES) -> float:
    """Return how many functions *operation* calls."""
    calls = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        for number in range(times):
            operation(number)
    finally:
        sys.setprofile(before)
    return calls / times


def microseconds_of(operation: Operation) -> float:
    """Return what *operation* takes, in the quickest of the rounds."""
    quickest = float("inf")
    for _ in range(ROUNDS):
        began = thread_time()
        for number in range(TIMES):
            operation(number)
        quickest = min(quickest, thread_time() - began)
    return quickest / TIMES * 1e6


def main() -> None:
    """Measure, and print a line for each operation."""
    print(f"{'':12}" + "".join(f"{size:>20,}" for size in SIZES))
    for curve in CURVES:
        if len(sys.argv) > 1 and curve.__name__ not in sys.argv[1:]:
            continue
        line = f"{curve.__name__:12}"
        for size in SIZES:
            operation = curve(make_large_broker(), size)
            line += f"{microseconds_of(operation):10.1f} us{calls_of(operation):6.0f} c"
        print(line, flush=True)


if __name__ == "__main__":
    main()
