"""The judge of histories passes those that are linearizable, and no other."""

from __future__ import annotations

import random

import pytest

from tests.faults.histories import CONFLICT, Operation, is_linearizable, patched
from tests.faults.linearizability import Record

# Each operation as kind, argument, start, end, answer; without the last two it has had no answer.
GOOD = {
    "nothing": [],
    "one after the other": [
        ("set", "1", 0, 1, 1),
        ("get", None, 2, 3, ("1", 1)),
        ("increment", 2, 4, 5, ("3", 2)),
        ("patch", "4", 6, 7, ("34", 3)),
        ("compare", ("5", 3), 8, 9, 4),
        ("get", None, 10, 11, ("5", 4)),
    ],
    "a read beside a write sees it": [("set", "1", 0, 9, 1), ("get", None, 1, 2, ("1", 1))],
    "a read beside a write does not see it": [("set", "1", 0, 9, 1), ("get", None, 1, 2, ("", 0))],
    "two reads beside a write, the later one sees it": [
        ("set", "1", 0, 9, 1),
        ("get", None, 1, 2, ("", 0)),
        ("get", None, 3, 4, ("1", 1)),
    ],
    "of two at once either is first": [
        ("set", "1", 0, 9, 2),
        ("set", "2", 0, 9, 1),
        ("get", None, 10, 11, ("1", 2)),
    ],
    "of two that compare one wins": [
        ("compare", ("1", 0), 0, 9, CONFLICT),
        ("compare", ("2", 0), 0, 9, 1),
    ],
    "what has no answer may have happened": [("set", "1", 0), ("get", None, 5, 6, ("1", 1))],
    "what has no answer may not have happened": [("set", "1", 0), ("get", None, 5, 6, ("", 0))],
    "what has no answer may happen late": [
        ("set", "1", 0),
        ("get", None, 5, 6, ("", 0)),
        ("get", None, 7, 8, ("1", 1)),
    ],
    "a compare without an answer may have been refused": [
        ("compare", ("1", 7), 0),
        ("set", "2", 5, 6, 1),
        ("get", None, 7, 8, ("2", 1)),
    ],
}
BAD = {
    "an acknowledged write is not seen": [("set", "1", 0, 1, 1), ("get", None, 2, 3, ("", 0))],
    "an old value comes back": [
        ("set", "1", 0, 1, 1),
        ("set", "2", 2, 3, 2),
        ("get", None, 4, 5, ("2", 2)),
        ("get", None, 6, 7, ("1", 1)),
    ],
    "a write is seen, and then not": [
        ("set", "1", 0, 9, 1),
        ("get", None, 1, 2, ("1", 1)),
        ("get", None, 3, 4, ("", 0)),
    ],
    "an increment is lost": [("increment", 1, 0, 1, ("1", 1)), ("increment", 1, 2, 3, ("1", 1))],
    "an increment is done twice": [("increment", 1, 0, 1, ("1", 1)), ("get", None, 2, 3, ("2", 2))],
    "one without an answer is done twice": [
        ("increment", 1, 0),
        ("get", None, 2, 3, ("1", 1)),
        ("get", None, 4, 5, ("2", 2)),
    ],
    "a write is seen before it was asked for": [("get", None, 0, 1, ("1", 1)), ("set", "1", 2, 3, 1)],
    "two win with one revision": [("compare", ("1", 0), 0, 9, 1), ("compare", ("2", 0), 0, 9, 1)],
    "a compare is refused for no reason": [("compare", ("1", 0), 0, 1, CONFLICT)],
    "a refused compare has happened": [
        ("set", "2", 0, 1, 1),
        ("compare", ("1", 7), 2, 3, CONFLICT),
        ("get", None, 4, 5, ("1", 2)),
    ],
    "a revision is given twice": [("set", "1", 0, 1, 1), ("set", "2", 2, 3, 1)],
    "a revision goes back": [("set", "1", 0, 1, 5), ("set", "2", 2, 3, 4)],
    "a compare wins with a revision of before": [
        ("set", "1", 0, 1, 1),
        ("set", "2", 2, 3, 2),
        ("compare", ("3", 1), 4, 5, 3),
    ],
    "a value that nobody wrote": [("set", "1", 0, 1, 1), ("get", None, 2, 3, ("8", 1))],
    "a patch forgets what was there": [("set", "1", 0, 1, 1), ("patch", "2", 2, 3, ("2", 2))],
}


def history(rows: list[tuple]) -> list[Operation]:
    return [Operation(*row) for row in rows]


@pytest.mark.parametrize("rows", GOOD.values(), ids=GOOD)
def test_what_can_have_happened_in_some_order_passes(rows):
    assert is_linearizable(history(rows))


@pytest.mark.parametrize("rows", BAD.values(), ids=BAD)
def test_what_can_not_have_happened_in_any_order_is_found(rows):
    assert not is_linearizable(history(rows))


def test_behind_a_new_epoch_the_first_answer_says_what_is_there():
    told = [("get", None, 0, 1, ("7", 3)), ("increment", 1, 2, 3, ("8", 4))]
    assert is_linearizable(history(told), None)
    assert not is_linearizable(history([*told, ("get", None, 4, 5, ("7", 3))]), None)


def test_objects_are_merged_and_texts_appended():
    assert patched("", "1") == "1"
    assert patched("1", "2") == "12"
    assert patched('{"a":1,"b":{"c":1}}', '{"b":{}}') == '{"a":1,"b":{}}'


def played(chance: random.Random, operations: int, clients: int) -> tuple[list[Operation], set[float]]:
    """Return a history that has happened: each operation takes effect at one moment, one in ten is not answered.

    And the revisions that others have taken.
    """
    made: list[Operation] = []
    taken: set[float] = set()
    state: tuple[str, int] = ("", 0)
    free = [0.0] * clients
    for moment in range(1, operations + 1):
        client = min(range(clients), key=lambda one: free[one])
        start = max(free[client], moment - chance.random() * clients)
        kind = chance.choice(["get", "set", "compare", "patch", "increment"])
        wanted = {"get": None, "compare": (str(moment), chance.choice([state[1], 0]))}.get(kind, str(moment % 10))
        after = next(Operation(kind, wanted, start).steps(state), state)
        assert after is not None
        if after != state:
            revision = state[1] + chance.choice([1, 1, 3])
            taken.update(range(int(state[1]) + 1, int(revision)))
            after = (after[0], revision)
        refused = kind == "compare" and after == state
        answer = CONFLICT if refused else after[1] if kind in ("set", "compare") else after
        end = max(moment, start) + chance.random()
        free[client] = end
        state = after
        made.append(Operation(kind, wanted, start, *(() if chance.random() < 0.1 else (end, answer))))
    return made, taken


@pytest.mark.parametrize("seed", range(5))
def test_long_histories_that_have_happened_pass_and_fail_with_one_answer_changed(seed):
    chance = random.Random(seed)
    made, taken = played(chance, 200, 8)
    assert is_linearizable(made, taken=taken)
    place = chance.choice([place for place, one in enumerate(made) if one.kind == "get" and one.end < 1e9])
    one = made[place]
    made[place] = Operation(one.kind, one.argument, one.start, one.end, (one.answer[0] + "x", one.answer[1]))
    assert not is_linearizable(made, taken=taken)


def test_a_record_is_judged_epoch_by_epoch():
    before, across = Operation("set", "1", 0, 1, 1), Operation("increment", 1, 4, 6, ("2", 2))
    lost, after = Operation("set", "8", 5, 5.5, 2), Operation("get", None, 20, 21, ("1", 1))
    history = [before, across, lost, after]
    assert not is_linearizable(history)
    made = Record({"k": history}, back=[(4.5, 10.0)])
    assert all(is_linearizable(*part[1:]) for part in made.parts())
    made.histories["k"].append(Operation("get", None, 22, 23, ("1", 2)))
    assert not all(is_linearizable(*part[1:]) for part in made.parts())
