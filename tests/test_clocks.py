"""Nothing takes one clock for the other: durations are measured by the monotonic one, dates are those of the wall.

The source is searched for what could mix them up, and a broker whose two clocks are
years apart shows where a date comes from.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

import jwt
import pytest
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock

from broker.config.options import Retention
from broker.core.clocks import WallClock
from broker.errors import Unauthenticated
from broker.testing import connect, make_broker, value_of
from protocols.owlmeans import dialect

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "broker/core/clocks.py": ["time.time"],
    "broker/stores/sqlite_restore.py": ["time.strftime", "time.gmtime"],  # the name of a file that is kept
}
# What tells dates of the machine, or is asked for them without being handed any.
DATES = {"time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.ctime", "time.asctime", "time.strftime"}
DATES |= {f"{kind}.{name}" for kind in ("datetime", "date") for name in ("now", "utcnow", "today")}
# What takes a date.
DATED = {
    "Announcement",
    "KeyAnnouncement",
    "Event",
    "Mail",
    "life_end",
    "milliseconds",
    "expiring",
    "fromtimestamp",
    "formatdate",
    "About",
}
NAMES = {"expires", "expiry", "date", "dt", "timestamp", "time"}
NOW = 1_800_000_000.0  # on the wall, when the other clock begins


@cache
def sources() -> list[tuple[str, ast.Module]]:
    paths = [path for folder in ("broker", "protocols", "twisted") for path in sorted((ROOT / folder).rglob("*.py"))]
    return [(str(path.relative_to(ROOT)), ast.parse(path.read_text("utf-8"))) for path in paths]


def dates_of_the_machine(module: ast.Module) -> Iterator[str]:
    """Yield what asks the machine for the time of day."""
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield from {f"{node.value.id}.{node.attr}"} & DATES
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (f"time.{alias.name}" for alias in node.names if f"time.{alias.name}" in DATES)
        if isinstance(node, ast.Call) and name_of(node.func) == "formatdate" and not node.args:
            yield "formatdate()"


def name_of(node: ast.AST) -> str:
    """Return the last word of a name, or ""."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def asks_timers(node: ast.AST) -> bool:
    """Whether *node* has a call of the ``seconds`` of a clock in it."""
    calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
    return any(isinstance(each.func, ast.Attribute) and each.func.attr == "seconds" for each in calls)


def seconds_in(function: ast.AST) -> set[str]:
    """Return the names of what is given the seconds of a clock of timers in *function*."""
    assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign) and asks_timers(node.value)]
    return {each.id for node in assigned for each in ast.walk(node) if is_assigned(each)}


def is_assigned(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def mixed_up(module: ast.Module) -> Iterator[str]:
    """Yield what gives the seconds of a clock of timers for a date, or hands ``time`` of the wall to a timer."""
    functions = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            name = name_of(node.func)
            given = [*node.args, *(each.value for each in node.keywords)]
            dates = given if name in DATED else [each.value for each in node.keywords if each.arg in NAMES]
            if any(map(asks_timers, dates)):
                yield ast.unparse(node)
            if name in ("callLater", "addTimeout") and "wall.time" in ast.unparse(node.args[0]):
                yield ast.unparse(node)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and asks_timers(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (ast.unparse(node) for each in targets if name_of(each) in NAMES)
    for function in functions:
        names = seconds_in(function)
        calls = [node for node in ast.walk(function) if isinstance(node, ast.Call) and name_of(node.func) in DATED]
        for call in calls if names else ():
            if any(isinstance(each, ast.Name) and each.id in names for each in ast.walk(call)):
                yield ast.unparse(call)


@pytest.mark.unmeasured
def test_one_module_alone_asks_the_machine_for_the_time_of_day():
    found = {name: list(dates_of_the_machine(module)) for name, module in sources()}
    assert {name: dates for name, dates in found.items() if dates} == ALLOWED


@pytest.mark.unmeasured
def test_no_source_takes_the_seconds_of_timers_for_a_date():
    assert [(name, found) for name, module in sources() for found in mixed_up(module)] == []


@pytest.mark.parametrize(
    "line",
    [
        "event.time = parts.clock.seconds()",
        "x = Event(topic, name, None, '', self._clock.seconds())",
        "expires = session.clock.seconds() + options.ttl",
        "store.set(space, key, value, expires=clock.seconds() + 5)",
        "end = life_end(self._reactor.seconds(), 5)",
        "clock.callLater(end - self.wall.time(), call)",
        "def f(self):\n    body, now = encode(), self._clock.seconds()\n    return Announcement('t', 'n', now, body)",
    ],
)
def test_what_is_mixed_up_is_found(line):
    assert len(list(mixed_up(ast.parse(line)))) == 1


@pytest.mark.parametrize("line", ["import time\nx = time.time()", "from time import time", "x = datetime.now(UTC)"])
def test_what_asks_the_machine_is_found(line):
    assert len(list(dates_of_the_machine(ast.parse(line)))) == 1


# A broker whose clocks are years apart.


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ahead() -> list[float]:
    """How far the clock on the wall is before the other one; to be changed."""
    return [NOW]


@pytest.fixture
def broker(clock: Clock, ahead: list[float]) -> Any:
    wall = WallClock(lambda: clock.seconds() + ahead[0])
    return make_broker(clock, wall=wall, durable_topics=("kept",), retention=Retention(86400, 0))


@pytest.fixture
def peer(broker: Any) -> Any:
    return broker.attach("owlmeans", "")


def is_date(time: float) -> bool:
    return abs(time - NOW) < 3600


def test_events_and_the_start_have_dates(broker, peer):
    times = [value_of(act(topic, "e", b"1")).time for act in (peer.publish, peer.post) for topic in ("live", "kept")]
    assert [is_date(time) for time in [*times, broker.about.started]] == [True] * 5


def test_the_clock_of_a_client_dates_nothing_that_is_stored(peer):
    assert value_of(peer.publish("live", "e", b"1", time=5.0)).time == 5.0
    assert is_date(value_of(peer.publish("kept", "e", b"1", time=5.0)).time)


def test_mail_that_waits_has_a_date(broker, peer):
    value_of(peer.enqueue("ref", b"1"))
    assert is_date(value_of(broker.store.jobs.state("default")).oldest)
    (job,) = value_of(broker.store.jobs.ready("default", 0, 9, 0))
    assert is_date(job.time)


def test_a_frame_has_the_date_of_the_wall_and_a_ttl_runs_from_it(broker, clock):
    client = connect(broker, dialect(broker.settings))
    client.say('{"type":"call","id":"1","method":"broker.set","payload":["k","v",{"ttl":10}]}')
    (answer,) = client.say('{"type":"call","id":"2","method":"broker.get","payload":["k"]}')
    frame = json.loads(answer)
    assert frame["payload"]["expires"] == (NOW + 10) * 1000
    assert is_date(frame["dt"] / 1000)


def test_a_token_ends_by_the_wall(broker, clock, peer):
    token = value_of(peer.mint({}, 100))
    assert is_date(jwt.decode(token, options={"verify_signature": False})["exp"])
    clock.advance(99)
    assert value_of(broker.tokens.verify(token)).claims == {}
    clock.advance(1)
    with pytest.raises(Unauthenticated):
        value_of(broker.tokens.verify(token))


def test_what_lives_without_use_ends_by_the_wall(broker, peer):
    value_of(broker.channels.move_cursor("c", "t", 1))
    broker.parts.mailboxes.open("c")
    ends = [entry.expires for space in ("cursor", "client") for _, entry in entries(broker, space)]
    assert len(ends) == 2
    assert min(ends) > NOW


def entries(broker: Any, space: str) -> Any:
    return value_of(broker.store.range(space, "", "\U0010ffff", 99))


def test_retention_goes_by_the_wall(broker, clock, peer):
    value_of(peer.post("t", "e", b"1"))
    clock.advance(86000)
    assert len(value_of(peer.read("t", 0, 9))) == 1
    clock.pump([60.0] * 10)
    assert value_of(peer.read("t", 0, 9)) == []


@pytest.mark.parametrize("jump", [-3600.0, 3600.0, 8 * 86400.0])
def test_a_jump_of_the_wall_changes_no_timer_and_ends_nothing(clock, ahead, broker, peer, jump):
    value_of(peer.post("t", "e", b"1"))
    value_of(peer.set("k", b"1", expires=peer.wall.time() + 600))
    polled: list[Any] = []
    ensureDeferred(peer.poll("t", 1, 9, 5.0)).addCallback(polled.append)
    ahead[0] += jump
    clock.pump([1.0] * 4)
    assert polled == []
    clock.pump([1.0] * 60)  # a sweep, too
    assert polled == [[]]
    assert len(value_of(peer.read("t", 0, 9))) == 1
    assert value_of(peer.get("k")).value == b"1"


def test_mail_is_not_too_old_after_a_jump(ahead, broker, peer):
    value_of(peer.enqueue("ref", b"1"))
    ahead[0] += 80 * 86400.0
    taker = connect(broker, dialect(broker.settings))
    taker.say('{"type":"call","id":"1","method":"broker.ready","payload":[]}')
    answers = taker.say('{"type":"call","id":"2","method":"broker.consume","payload":["default"]}')
    assert "ref" in str([*answers, *taker.link.take()])
