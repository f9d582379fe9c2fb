"""The log of refusals: one line each, but not any number of them."""

import pytest
from twisted.internet.task import Clock

from broker.access.refusals import ALL_AT_ONCE, INTERVAL, LINES_AT_ONCE, MAX_ADDRESSES, MAX_KINDS, RefusalLog
from broker.observe.metrics import Metrics
from tests.support.logs import lines_of

ADDRESS = "192.0.2.1"


@pytest.fixture
def clock():
    clock = Clock()
    clock.advance(1_000_000)
    return clock


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def refusals(clock, metrics):
    return RefusalLog(clock, metrics)


def refuse(refusals, address=ADDRESS, verb="publish", name="", principal="user:bob"):
    refusals.add("hpkv", address, principal, verb, "DENIED", "TXBROKER_PERMISSIONS_FILE", name)


def test_a_line_says_who_was_refused_what_and_which_setting_decides(refusals, logged):
    refuse(refusals, name="orders.new")
    assert lines_of(logged) == [
        'hpkv refused 192.0.2.1: DENIED for user:bob at publish of "orders.new"; see TXBROKER_PERMISSIONS_FILE'
    ]
    fields = ("dialect", "address", "principal", "verb", "code", "setting", "name")
    assert [logged[0][field] for field in fields] == [
        "hpkv", ADDRESS, "user:bob", "publish", "DENIED", "TXBROKER_PERMISSIONS_FILE", '"orders.new"',
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a\nhpkv refused 10.0.0.9: DENIED", "\x1b[2J\r", "\ud800", '"', "x" * 5000])
def test_a_name_can_not_look_like_another_line(refusals, logged, name):
    refuse(refusals, name=name)
    (line,) = lines_of(logged)
    assert line.startswith("hpkv refused 192.0.2.1: DENIED for user:bob at publish of ")
    assert line.isprintable()
    assert len(line) < 300


def test_an_address_has_so_many_lines_and_the_others_are_counted(refusals, clock, metrics, logged):
    for _ in range(LINES_AT_ONCE + 6):
        refuse(refusals)
    assert len(logged) == LINES_AT_ONCE + 1  # the first of its kind is free
    assert metrics.refusals["hpkv", "DENIED"] == LINES_AT_ONCE + 6
    assert metrics.refusals_not_logged == 5
    clock.advance(INTERVAL)
    refuse(refusals)
    assert lines_of(logged)[-1].endswith("(5 more were not logged)")
    assert logged[-1]["skipped"] == 5


def test_a_refusal_of_another_kind_or_address_is_logged_all_the_same(refusals, logged):
    for _ in range(100):
        refuse(refusals)
    before = len(logged)
    refuse(refusals, verb="read")
    refuse(refusals, principal="secret")
    refuse(refusals, address="192.0.2.2")
    assert len(logged) == before + 3


def test_all_addresses_together_have_a_limit(refusals, metrics, logged):
    for number in range(ALL_AT_ONCE + 10):
        refuse(refusals, address=f"10.0.{number >> 8}.{number & 255}")
    assert len(logged) == ALL_AT_ONCE
    assert metrics.refusals_not_logged == 10


def test_what_is_remembered_is_bounded(refusals):
    for number in range(MAX_ADDRESSES + 10):
        refuse(refusals, address=f"10.0.{number >> 8}.{number & 255}")
    for number in range(MAX_KINDS + 10):
        refuse(refusals, principal=f"user:{number}")
    assert len(refusals._addresses) == MAX_ADDRESSES
    assert len(refusals._addresses[ADDRESS].logged) <= MAX_KINDS
