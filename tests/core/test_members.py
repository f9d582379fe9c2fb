"""Who is present on topics: joins and leaves, the time in which a client may come back, other nodes."""

import json

import pytest
from twisted.internet.task import Clock

from broker.core.members import GRACE, HERE, Members, Place, shown_page


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def told():
    return []


@pytest.fixture
def members(clock, told):
    def deliver(event):
        assert event.topic == "broker.presence.chat"
        told.append((event.name, *json.loads(event.body).values()))

    return Members(clock, clock.seconds, deliver)


def present(members):
    return {member.id: len(member.places) for member in members.of("chat")}


def test_each_client_joins_and_leaves_once_by_however_many_sessions(members, clock, told):
    for session in ("s1", "s2"):
        members.enter("chat", "ann", session)
    assert told == [("join", "ann")]
    assert present(members) == {"ann": 2}
    for session in ("s1", "s2"):
        members.leave(session)
        clock.advance(GRACE + 0.1)
    assert told == [("join", "ann"), ("leave", "ann")]
    assert members.of("chat") == []


def test_who_comes_back_in_time_has_not_left(members, clock, told):
    members.enter("chat", "ann", "s1")
    members.leave("s1")
    clock.advance(GRACE - 0.1)
    assert present(members) == {"ann": 0}
    members.add("chat", "ann", Place("other/1", "s2"), b"")
    clock.advance(GRACE + 0.1)
    assert told == [("join", "ann")]
    assert present(members) == {"ann": 1}


def test_the_last_word_of_a_client_about_itself_is_what_others_see(members, clock, told):
    members.enter("chat", "ann", "s1", b'"away"')
    members.enter("chat", "ann", "s2", b'"here"')
    (ann,) = members.of("chat")
    assert ann.info == b'"here"'
    members.exit("chat", "s2")
    assert ann.info == b'"away"'
    members.exit("chat", "s1")
    clock.advance(GRACE + 0.1)
    assert told == [("join", "ann", "away"), ("leave", "ann", "away")]


def test_a_session_that_takes_another_name_is_present_by_that(members, clock, told):
    members.enter("chat", "s1", "s1", b"1")
    members.rename("s1", "ann")
    members.rename("s2", "bob")
    clock.advance(GRACE + 0.1)
    assert told == [("join", "s1", 1), ("join", "ann", 1), ("leave", "s1", 1)]
    assert present(members) == {"ann": 1}


def test_what_is_held_is_told_and_given_back(members):
    held = members.enter("chat", "ann", "s1", b'"x"')
    assert members.enter("chat", "ann", "s1", b'"x"') == 0
    held += members.enter("chat", "ann", "s1", b'"longer"')
    assert held > members.exit("chat", "s2") == 0
    assert members.exit("chat", "s1") == held
    assert members._sessions == {}


def test_a_place_that_is_not_known_is_not_removed(members, clock, told):
    members.enter("chat", "ann", "s1")
    members.remove("chat", "ann", Place(HERE, "s2"))
    members.remove("chat", "bob", Place(HERE, "s1"))
    clock.advance(GRACE + 0.1)
    assert told == [("join", "ann")]


def test_no_leave_is_told_after_the_end(members, clock, told):
    members.enter("chat", "ann", "s1")
    members.leave("s1")
    members.enter("chat", "bob", "s2")
    members.stop()
    members.leave("s2")
    assert clock.getDelayedCalls() == []


def ids_of(members, after, limit):
    page = members.page("chat", after, limit)
    return [member.id for member in page.members], page.count, page.rest


def test_pages_have_the_order_of_the_ids_whoever_comes_and_goes_between_them(members, clock, told):
    for name in ("c", "a", "e"):
        members.enter("chat", name, name)
    assert ids_of(members, "", 2) == (["a", "c"], 3, 1)
    members.enter("chat", "d", "d")
    members.leave("c")
    clock.advance(GRACE)
    assert ids_of(members, "c", 2) == (["d", "e"], 3, 0)
    for name in "ade":
        members.leave(name)
    clock.advance(GRACE)
    assert ids_of(members, "", 2) == ([], 0, 0)
    members.enter("chat", "b", "b")
    assert ids_of(members, "", 2) == (["b"], 1, 0)


def test_pages_show_all_of_very_many_members(members, told):
    for number in range(2500):
        members.enter("chat", f"client-{number * 7919 % 2500}", f"session-{number}")
    shown, after, pages = [], "", 0
    while True:
        page = shown_page(members.page("chat", after, 1000), max_bytes=30_000)
        shown += [member["id"] for member in page["members"]]
        pages += 1
        if not page["more"]:
            break
        after = shown[-1]
    assert shown == sorted(f"client-{number}" for number in range(2500))
    assert pages > 3  # the bytes limit them, too
