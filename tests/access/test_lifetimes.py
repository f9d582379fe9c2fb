"""How long clients stay connected, by two clocks: that of the timers, and the one on the wall, which may be set."""

from collections.abc import Callable

import attrs
import pytest
from twisted.internet.task import Clock

from broker.access.lifetimes import LOOKED_AT, PAUSE, Lifetimes
from broker.core.clocks import WallClock
from broker.messages import Identity

NOW = 1_700_000_000.0
EXPIRED = (1008, "credential expired")


@attrs.define(eq=False)
class Holder:
    identity: Identity
    token: str = ""
    admitted: bool = True
    warnings: list = attrs.field(factory=list)
    ends: list = attrs.field(factory=list)
    on_warning: Callable[[], object] = lambda: None
    on_end: Callable[[], object] = lambda: None

    def warn(self, seconds):
        self.warnings.append(seconds)
        self.on_warning()

    def renew(self, identity):
        self.identity = identity
        return "lost" not in identity.roles

    def disconnect(self, code, reason):
        self.ends.append((code, reason))
        self.on_end()


class Clocks:
    """Time goes by on both clocks alike, until the one on the wall is set."""

    def __init__(self):
        self.timers, self.ahead = Clock(), NOW
        self.lifetimes = Lifetimes(self.timers, WallClock(lambda: self.timers.seconds() + self.ahead))

    def hold(self, seconds, token=""):
        identity = Identity("user", "bob", expires=NOW + seconds if seconds else 0.0, fingerprint="f")
        holder = Holder(identity, token)
        self.lifetimes.hold(holder)
        return holder

    def advance(self, seconds):
        self.timers.pump([1.0] * seconds)


@pytest.fixture
def clocks():
    return Clocks()


def test_a_credential_ends_at_its_time_and_not_before(clocks):
    holder = clocks.hold(100)
    clocks.advance(99)
    assert holder.ends == []
    clocks.advance(1)
    assert holder.ends == [EXPIRED]
    clocks.advance(1)
    assert (len(clocks.lifetimes), clocks.timers.getDelayedCalls()) == (0, [])


def test_of_very_many_whose_credential_ends_so_many_are_warned_at_once(clocks):
    holders = [clocks.hold(100) for _ in range(2 * LOOKED_AT + 1)]
    clocks.advance(89)
    clocks.timers.advance(1)
    warned = [sum(bool(holder.warnings) for holder in holders)]
    clocks.lifetimes.release(holders[-1])
    for _ in range(2):
        clocks.timers.advance(PAUSE)
        warned.append(sum(bool(holder.warnings) for holder in holders))
    assert warned == [LOOKED_AT, 2 * LOOKED_AT, 2 * LOOKED_AT]
    clocks.advance(15)
    assert [holder.ends for holder in holders] == [[EXPIRED]] * 2 * LOOKED_AT + [[]]
    assert clocks.timers.getDelayedCalls() == []


def test_when_the_clock_is_set_back_a_credential_does_not_end_early(clocks):
    holder = clocks.hold(100)
    clocks.ahead -= 3600
    clocks.advance(3699)
    assert holder.ends == []
    clocks.advance(1)
    assert holder.ends == [EXPIRED]


def test_when_the_clock_is_set_forward_a_credential_ends_within_a_minute(clocks):
    holder = clocks.hold(7200)
    clocks.advance(5)
    clocks.ahead += 7200
    clocks.advance(60)
    assert holder.ends == [EXPIRED]


def test_what_has_expired_already_ends_at_the_next_iteration(clocks):
    holder = clocks.hold(-5)
    assert holder.ends == []
    clocks.timers.advance(0)
    assert (holder.ends, holder.warnings) == ([EXPIRED], [])


def test_a_client_is_warned_once_half_a_minute_before_the_end(clocks):
    holder = clocks.hold(3600)
    clocks.advance(3569)
    assert holder.warnings == []
    clocks.advance(5)
    assert holder.warnings == [30.0]
    clocks.ahead -= 1000
    clocks.advance(1100)
    assert (holder.warnings, holder.ends) == ([30.0], [EXPIRED])


def test_one_that_has_little_time_is_warned_when_a_tenth_of_it_is_left(clocks):
    holder = clocks.hold(50)
    clocks.advance(44)
    assert holder.warnings == []
    clocks.advance(1)
    assert holder.warnings == [5.0]


def test_a_client_that_goes_when_it_is_warned_leaves_no_timer(clocks):
    holder = clocks.hold(100)
    holder.on_warning = lambda: clocks.lifetimes.release(holder)
    clocks.advance(95)
    assert (len(clocks.lifetimes), clocks.timers.getDelayedCalls(), holder.ends) == (0, [], [])


def test_holding_again_replaces_the_end(clocks):
    holder = clocks.hold(100)
    holder.identity = attrs.evolve(holder.identity, expires=NOW + 500)
    clocks.lifetimes.hold(holder)
    clocks.advance(499)
    assert holder.ends == []
    clocks.advance(1)
    assert holder.ends == [EXPIRED]


def test_what_never_expires_has_no_timer(clocks):
    holder = clocks.hold(0)
    assert (len(clocks.lifetimes), clocks.timers.getDelayedCalls()) == (1, [])
    clocks.lifetimes.release(holder)
    clocks.lifetimes.release(holder)
    assert len(clocks.lifetimes) == 0


@pytest.mark.parametrize("seconds", [1e15, 1e300])
def test_an_end_beyond_all_times_is_none(clocks, seconds):
    holder = clocks.hold(seconds)
    clocks.advance(120)
    clocks.timers.advance(PAUSE)
    assert (holder.ends, len(clocks.timers.getDelayedCalls())) == ([], 1)


@pytest.fixture
def many(clocks):
    return [clocks.hold(100, "id") for _ in range(120)]


def ended(holders):
    return sum(bool(holder.ends) for holder in holders)


def test_many_connections_are_closed_a_few_at_a_time(clocks, many):
    clocks.lifetimes.revoke("id")
    seen = [ended(many)]
    for _ in range(3):
        clocks.timers.advance(PAUSE)
        seen.append(ended(many))
    assert seen == [50, 100, 120, 120]
    assert clocks.timers.getDelayedCalls() == []


def test_one_that_leaves_before_it_is_closed_is_left_alone(clocks, many):
    clocks.lifetimes.revoke("id")
    clocks.lifetimes.release(many[60])
    clocks.timers.pump([PAUSE, PAUSE])
    assert (many[60].ends, ended(many)) == ([], 119)


def test_one_whose_close_fails_does_not_keep_the_others(clocks, many, logged):
    many[0].on_end = lambda: 1 / 0
    clocks.lifetimes.revoke("id")
    clocks.timers.pump([PAUSE, PAUSE])
    assert ended(many) == 120
    assert [event["log_failure"].type for event in logged if "log_failure" in event] == [ZeroDivisionError]


def test_stopping_closes_nobody(clocks, many):
    clocks.lifetimes.revoke("id")
    clocks.lifetimes.stop()
    clocks.advance(200)
    assert (ended(many), clocks.timers.getDelayedCalls()) == (50, [])


def test_whose_key_is_not_configured_any_more_is_disconnected(clocks):
    bob, ann, token, stranger = clocks.hold(100), clocks.hold(0), clocks.hold(100, "id"), clocks.hold(0)
    ann.identity = Identity("key", "ann", fingerprint="other")
    stranger.admitted = False
    assert clocks.lifetimes.renew(lambda identity: identity if identity.fingerprint == "other" else None) == 2
    clocks.timers.advance(PAUSE)
    assert bob.ends == [(1008, "credential withdrawn")]
    assert token.ends == [(4003, "token revoked")]
    assert (ann.ends, stranger.ends) == ([], [])
    assert clocks.timers.getDelayedCalls() == []


def test_who_has_lost_a_right_is_disconnected_and_the_others_have_those_of_today(clocks):
    kept, lost = clocks.hold(100), clocks.hold(100)
    grants = object()
    lost.identity = attrs.evolve(lost.identity, roles=("lost",))
    assert clocks.lifetimes.renew(lambda identity: attrs.evolve(identity, grants=grants)) == 1
    assert (kept.ends, kept.identity.grants) == ([], grants)
    assert lost.ends == [(1008, "permission withdrawn")]


def test_a_revoked_token_ends_all_who_live_by_it(clocks):
    holders = [clocks.hold(100, "a"), clocks.hold(100, "a"), clocks.hold(100, "b")]
    clocks.lifetimes.revoke("a")
    clocks.lifetimes.revoke("a")
    assert [holder.ends for holder in holders] == [[(4003, "token revoked")]] * 2 + [[]]
    clocks.advance(100)
    assert holders[2].ends == [(4001, "token expired")]
