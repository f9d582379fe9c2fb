"""The curves: connections, topics, patterns, stored events, keys of a range, cursors of a channel."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.scale.curve import Curve, Values
from benchmarks.scale.site import Site, call
from benchmarks.scale.stored import fill_and_start, measure_stored
from benchmarks.servers import Broker

CALLS = 20_000  # different ones, in a random order
PAGE = 100  # entries
MANY_CONNECTIONS = {
    "TXBROKER_MAX_CONNECTIONS": "0",
    "TXBROKER_MAX_CONNECTIONS_PER_ADDRESS": "0",
    "TXBROKER_MAX_UNADMITTED": "0",
    "TXBROKER_MAX_UNADMITTED_PER_ADDRESS": "0",
    "TXBROKER_MAX_PENDING_CALLS": "100000",
    "TXBROKER_MAX_CALLS_PER_CLIENT": "100000",
}
MANY_SUBSCRIPTIONS = {"TXBROKER_MAX_SUBSCRIPTIONS": "100000"}
A_CALL = 1e-3  # seconds that it is measured longer for each caller: each is to get some answers on a busy machine, too
FEWEST_IDLE = 1000  # connections, whose memory is more than what pages are rounded to


def numbers(size: int) -> Iterator[int]:
    """Yield random numbers below *size*, the same each time."""
    chance = random.Random(size)
    return (chance.randrange(size) for _ in range(CALLS))


def connections(site: Site) -> Values:
    """Deliver to all, call on each, and let as many others be idle in a daemon of their own."""
    count = str(site.size)
    yield "fan-out, µs a delivery", site.under("-m", "fanout", "-n", count)["cpu_us"]
    yield "calls of each, µs a call", site.under("-m", "relay", "-n", count, longer=site.size * A_CALL)["cpu_us"]
    if site.size >= FEWEST_IDLE:
        yield "idle, KiB a connection", _idle_kib(site)


def _idle_kib(site: Site) -> float:
    with TemporaryDirectory(dir=site.directory) as directory:
        server = Broker(Path(directory))
        server.more = dict(MANY_CONNECTIONS)
        own = Site(site.binary, site.directory, site.size, site.seconds, server)
        server.start()
        try:
            return float(own.under("-m", "idle", "-n", str(site.size))["kib_per_conn"])
        finally:
            own.stop()


def subscribe_to_topics(site: Site) -> None:
    """Have so many topics, each with a subscriber."""
    site.hold(call("broker.subscribe", f"t{number}") for number in range(site.size))


def topics(site: Site) -> Values:
    """Publish on one of them."""
    calls = (call("broker.publish", f"t{number}", {"n": number}) for number in numbers(site.size))
    yield "publish to one subscriber, µs", site.microseconds(calls)


PATTERNS = ("a{}.*.end", "a{}.x.end"), ("b.*.{}", "b.x.{}"), ("c.{}.>", "c.{}.x.y")  # each with what it matches


def subscribe_to_patterns(site: Site) -> None:
    """Have so many patterns of three kinds, each with a subscriber."""
    site.hold(call("broker.subscribe", PATTERNS[number % 3][0].format(number)) for number in range(site.size))


def patterns(site: Site) -> Values:
    """Publish what one of them matches."""
    calls = (
        call("broker.publish", PATTERNS[number % 3][1].format(number), {"n": number}) for number in numbers(site.size)
    )
    yield "publish to one pattern, µs", site.microseconds(calls)


def set_keys(site: Site) -> None:
    """Have so many keys."""
    site.make(call("broker.set", key(number), str(number)) for number in range(site.size))


def key(number: int) -> str:
    """Return the name of a key; they sort as their numbers do."""
    return f"range.{number:06d}"


def keys(site: Site) -> Values:
    """Read the next key of the range, and a page of it, from anywhere; and set a key."""
    size = site.size
    yield "set a key, µs", site.microseconds(call("broker.set", key(number), str(number)) for number in numbers(size))
    one = (call("broker.range", key(number), "range.~", {"limit": 1}) for number in numbers(size))
    yield "read the next key, µs", site.microseconds(one)
    if size >= PAGE:
        page = (call("broker.range", key(number), "range.~", {"limit": PAGE}) for number in numbers(size - PAGE + 1))
        yield "read a page of 100 keys, µs", site.microseconds(page)


def set_cursors(site: Site) -> None:
    """Have a channel with a few events, and so many cursors."""
    site.make(call("broker.publish", "read", {"n": number}, {"durable": True}) for number in range(PAGE))
    site.make(call("broker.ack", f"c{number}", "read", 1) for number in range(site.size))


def cursors(site: Site) -> Values:
    """Move one of them; and store an event of their channel."""
    moves = (
        call("broker.ack", f"c{number}", "read", place % PAGE + 1) for place, number in enumerate(numbers(site.size))
    )
    yield "acknowledge by a cursor, µs", site.microseconds(moves)
    yield "store an event, µs", site.microseconds([call("broker.publish", "read", {"n": 1}, {"durable": True})])


CURVES = (
    Curve("connections", "connections", (100, 1000, 10_000), connections, settings=MANY_CONNECTIONS),
    Curve("topics", "topics", (10, 1000, 10_000, 100_000), topics, subscribe_to_topics, settings=MANY_SUBSCRIPTIONS),
    Curve("patterns", "patterns", (10, 100, 1000), patterns, subscribe_to_patterns),
    Curve("events", "stored events", (1000, 10_000, 100_000, 1_000_000), measure_stored, start=fill_and_start),
    Curve("keys", "keys in a range", (1, 100, 10_000, 100_000), keys, set_keys),
    Curve("cursors", "cursors of a channel", (1, 10, 100, 1000), cursors, set_cursors),
)
