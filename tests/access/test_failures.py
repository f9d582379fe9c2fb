"""Wrong credentials are looked at only so often."""

import pytest
from twisted.internet.task import Clock

from broker.access.failures import MAX_ADDRESSES, AuthFailures
from broker.access.refusals import RefusalLog
from broker.errors import RateLimited
from broker.observe.metrics import Metrics


@pytest.fixture
def clock():
    return Clock()


def failures_with(clock, limit):
    return AuthFailures(clock, limit, RefusalLog(clock, Metrics()))


def fail(failures, address, times=1, **options):
    for _ in range(times):
        failures.count("test", address, "TXBROKER_API_SECRET", **options)


def may_try(failures, address):
    try:
        failures.check("test", address)
    except RateLimited:
        return False
    return True


def test_after_so_many_failures_none_is_looked_at_until_the_minute_is_over(clock):
    failures = failures_with(clock, 3)
    fail(failures, "192.0.2.1", 2)
    clock.advance(20)
    assert may_try(failures, "192.0.2.1")
    fail(failures, "192.0.2.1")
    clock.advance(39.9)
    assert not may_try(failures, "192.0.2.1")
    clock.advance(0.1)
    assert may_try(failures, "192.0.2.1")


def test_it_is_told_when_to_try_again(clock):
    failures = failures_with(clock, 1)
    fail(failures, "192.0.2.1")
    clock.advance(45)
    with pytest.raises(RateLimited) as caught:
        failures.check("test", "192.0.2.1")
    assert caught.value.retry_after == 15


def test_addresses_of_one_ipv6_network_fail_together_and_others_alone(clock):
    failures = failures_with(clock, 2)
    fail(failures, "2001:db8::1")
    fail(failures, "2001:db8::2")
    assert not may_try(failures, "2001:db8::3")
    assert may_try(failures, "2001:db8:0:1::3")
    assert may_try(failures, "192.0.2.1")


@pytest.mark.parametrize("limit", [0, 5])
def test_zero_is_no_limit_and_a_unix_socket_has_none(clock, limit):
    failures = failures_with(clock, limit)
    address = "" if limit else "192.0.2.1"
    fail(failures, address, 100)
    assert may_try(failures, address)


def test_a_credential_that_is_missing_is_no_guess(clock):
    failures = failures_with(clock, 1)
    fail(failures, "192.0.2.1", 10, guessed=False)
    assert may_try(failures, "192.0.2.1")


def test_so_many_addresses_are_remembered_and_no_more(clock):
    failures = failures_with(clock, 1)
    for number in range(MAX_ADDRESSES + 50):
        fail(failures, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(failures.addresses) == MAX_ADDRESSES
    assert not may_try(failures, "10.0.1.0")
