import pytest
from twisted.internet.task import Clock

from broker.access.limits import Buckets, network_of


def test_a_bucket_gives_its_burst_and_then_its_rate():
    clock = Clock()
    bucket = Buckets(clock, rate=2.0, burst=3.0).of("ann")
    assert [bucket.take_token() for _ in range(4)] == [True, True, True, False]
    clock.advance(0.5)
    assert [bucket.take_token(), bucket.take_token()] == [True, False]
    clock.advance(100)
    assert [bucket.take_token() for _ in range(4)] == [True, True, True, False]


def test_a_bucket_says_when_the_next_token_is_there():
    clock = Clock()
    bucket = Buckets(clock, rate=4.0, burst=1.0).of("ann")
    assert bucket.wait() == 0.0
    bucket.take_token()
    assert bucket.wait() == 0.25
    clock.advance(0.1)
    assert bucket.wait() == pytest.approx(0.15)
    assert not bucket.take_token()
    clock.advance(bucket.wait())
    assert (bucket.wait(), bucket.take_token()) == (0.0, True)


def test_a_rate_below_one_lets_the_first_pass():
    clock = Clock()
    bucket = Buckets(clock, rate=0.5, burst=0.0).of("ann")
    assert [bucket.take_token(), bucket.take_token()] == [True, False]
    clock.advance(1.9)
    assert not bucket.take_token()
    clock.advance(0.1)
    assert bucket.take_token()


def test_a_bucket_is_kept_for_each_key_seen_lately():
    buckets = Buckets(Clock(), rate=1.0, burst=0.0, size=2)
    ann, bob = buckets.of("ann"), buckets.of("bob")
    assert buckets.of("ann") is ann
    buckets.of("cid")
    assert buckets.of("ann") is ann
    assert buckets.of("bob") is not bob


def test_no_rate_is_no_bucket():
    assert Buckets(Clock(), rate=0.0, burst=5.0).of("ann") is None


def test_what_is_spent_is_no_more_than_there_is():
    clock = Clock()
    bucket = Buckets(clock, rate=1.0, burst=3.0).of("ann")
    bucket.spend(2)
    assert [bucket.take_token(), bucket.take_token()] == [True, False]
    bucket.spend(100)
    clock.advance(1.0)
    assert bucket.take_token()


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("/run/txbroker.sock", "/run/txbroker.sock"),
        ("", ""),
    ],
)
def test_addresses_that_one_client_may_have_are_one_network(address, network):
    assert network_of(address) == network
