"""The trips of docs/architecture.rst are those that messages make."""

import pytest
import pytest_twisted

from tests import trips

MAX_FILES = ((20,), (11,), (16, 13))  # that each trip may pass on each node: a longer one is harder to follow


@pytest.mark.processes
@pytest_twisted.ensureDeferred
async def test_trips_are_as_short_as_the_documentation_says():
    made = await trips.all_trips()
    # The threads of a store may change places with the reactor: the order is not compared.
    told = sorted(trips.PAGE.read_text("utf-8").splitlines())
    assert told == sorted(trips.page_with(made).splitlines()), "run `python -m tests.trips --write`"
    for trip, most in zip(made, MAX_FILES, strict=True):
        passed = [len(files) for files in trip.nodes.values()]
        assert all(count <= limit for count, limit in zip(passed, most, strict=True)), trip.title


def test_function_counts_when_every_round_enters_it():
    rounds = [
        {"a.py": ["f", "timer"], "c.py": ["once"]},
        {"b.py": ["g"], "a.py": ["f"]},
        {"a.py": ["h", "f"], "b.py": ["g"]},
    ]
    assert trips.common(rounds) == {"a.py": ["f"]}


def test_summary_is_the_first_sentence_of_a_module():
    assert (
        trips.summary("tests/trips.py")
        == "Counts the files that a message passes, and writes them into docs/architecture.rst."
    )
