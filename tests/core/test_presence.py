import attrs
import pytest

from broker.core.presence import Presence


@attrs.define(eq=False)
class Somebody:
    id: str
    client: str


@pytest.fixture
def seen():
    return []


@pytest.fixture
def presence(seen):
    return Presence(lambda *change: seen.append(change))


def test_a_client_is_found_by_its_id_newest_session_first(presence):
    one, two, three = (Somebody(id, "ann") for id in ("s1", "s2", "s3"))
    for session in (one, two, three):
        presence.enter(session)
    assert presence.sessions("ann") == presence.sessions_of("ann") == [three, two, one]
    assert presence.sessions_of("s1") == []


def test_a_session_is_found_by_its_own_id(presence):
    one = Somebody("s1", "ann")
    presence.enter(one)
    assert presence.sessions("s1") == [one]
    assert presence.sessions("nobody") == []


def test_coming_and_going_is_told(presence, seen):
    one = Somebody("s1", "ann")
    presence.enter(one)
    presence.enter(one)
    presence.leave(one)
    presence.leave(one)
    assert seen == [("online", "ann", "s1"), ("offline", "ann", "s1")]
    assert len(presence) == 0
    assert presence.sessions("ann") == []


def test_a_new_client_id_replaces_the_old_one(presence, seen):
    one = Somebody("s1", "s1")
    presence.enter(one)
    one.client = "ann"
    presence.enter(one)
    assert presence.sessions("ann") == [one]
    assert list(presence) == [one]
    assert seen == [("online", "s1", "s1"), ("offline", "s1", "s1"), ("online", "ann", "s1")]
