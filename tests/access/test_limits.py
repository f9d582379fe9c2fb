from twisted.internet.task import Clock

from broker.access.limits import Buckets


def test_a_bucket_gives_its_burst_and_then_its_rate():
    clock = Clock()
    bucket = Buckets(clock, rate=2.0, burst=3.0).of("ann")
    assert [bucket.take_token() for _ in range(4)] == [True, True, True, False]
    clock.advance(0.5)
    assert [bucket.take_token(), bucket.take_token()] == [True, False]
    clock.advance(100)
    assert [bucket.take_token() for _ in range(4)] == [True, True, True, False]


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
