"""How many arenas the interpreter may have for small objects."""

from __future__ import annotations

import subprocess
import sys

import pytest

from broker import arenas
from broker.arenas import ArenaLimit

SPARE = ArenaLimit.SPARE


@pytest.fixture
def limits():
    """What the limit was set to, the last at the end."""
    return []


@pytest.fixture
def limit(limits):
    limit = ArenaLimit(lambda count: limits.append(count) or 0)
    limit.begin()
    return limit


def test_from_the_start_there_are_a_few_to_spare(limit, limits):
    assert limits == [SPARE]


def test_before_the_start_and_without_the_compiled_module_nothing_is_limited(limits):
    for limit in (ArenaLimit(limits.append), ArenaLimit(None)):
        limit.look(1_000_000)
        limit.connected("port", 100_000)
    limit.begin()
    limit.look(1_000_000)
    assert limits == []


def test_what_lasts_has_its_own(limit, limits):
    for lasting, more in ((10 * ArenaLimit.BLOCKS, 10), (5, 0), (-5, 0)):
        limit.look(lasting)
        assert limits[-1] == SPARE + more


def test_clients_have_their_own_while_they_come_and_until_they_have_gone(limit, limits):
    for connections in range(1, 1001):
        limit.connected("port", connections)
    assert limits[-1] == SPARE + 1000 // ArenaLimit.CONNECTIONS
    assert len(limits) <= 1 + 1000 * 2 // ArenaLimit.CONNECTIONS  # it costs nothing for most of them
    for connections in reversed(range(1000)):
        limit.connected("port", connections)
    assert limits[-1] == SPARE


PROBE = """
import gc, sys
from broker._arenas import limit_arenas

assert limit_arenas(3) == 0
held = [[str(number)] for number in range(400_000)]  # 50 arenas, about
assert held[399_999] == ["399999"] and limit_arenas(3) == 3, limit_arenas(3)
del held
gc.collect()
assert limit_arenas(1000) <= 3
held = [[str(number)] for number in range(400_000)]
assert limit_arenas(5) > 20  # what is there already is left
held.append([str(0)] * 10)
del held
gc.collect()
assert limit_arenas(5) < 20  # they can be given back, as those from before the first call
for wrong in ("1", None, 1 << 70):
    try:
        limit_arenas(wrong)
    except (TypeError, OverflowError):
        continue
    raise AssertionError(wrong)
"""


@pytest.mark.processes
@pytest.mark.skipif(arenas.limit_arenas is None, reason="broker/_arenas.c was not built: there is no compiler")
def test_the_interpreter_keeps_to_the_limit_and_lives_on_without_more():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=120)
    assert (done.stderr, done.returncode) == ("", 0)
