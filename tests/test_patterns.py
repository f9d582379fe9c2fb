from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Invalid
from broker.patterns import (
    MAX_TOKENS,
    MAX_WILDCARDS,
    check_key,
    check_name,
    check_pattern,
    covers,
    is_pattern,
    literal_beginning,
    matches,
    overlaps,
    pair_key,
)

tokens = st.sampled_from(["a", "b", "c"])
names = st.lists(tokens, min_size=1, max_size=4).map(".".join)
patterns = st.builds(
    lambda head, tail: ".".join([*head, *tail]),
    st.lists(st.sampled_from(["a", "b", "ab", "*"]), min_size=1, max_size=3),
    st.sampled_from([[], [">"], ["a*"], ["ab*"]]),
)
ALL_NAMES = [".".join(parts) for n in range(1, 5) for parts in product(["a", "b", "ab", "abc", "c"], repeat=n)]


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("a", "a", True),
        ("a", "a.b", False),
        ("*", "a", True),
        ("*", "a.b", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "anything.at.all", True),
        ("*.b", "a.b", True),
        ("job:*", "job:1", True),
        ("job:*", "job:", True),
        ("job:*", "job:1.done", True),
        ("job:*", "job", False),
        ("job:*", "a.job:1", False),
        ("orders.eu-*", "orders.eu-1", True),
        ("orders.eu-*", "orders.us-1", False),
        ("orders.eu-*", "orders", False),
        ("*.eu-*", "orders.eu-1.x", True),
        ("users/v1", "users/v1", True),
    ],
)
def test_a_pattern_matches_token_by_token(pattern, name, expected):
    assert matches(pattern, name) is expected


@given(patterns, patterns)
def test_covering_means_matching_whatever_the_other_matches(outer, inner):
    expected = all(matches(outer, name) for name in ALL_NAMES if matches(inner, name))
    assert covers(outer, inner) is expected


@given(patterns, patterns)
def test_overlapping_means_that_some_name_is_matched_by_both(one, other):
    expected = any(matches(one, name) and matches(other, name) for name in ALL_NAMES)
    assert overlaps(one, other) is expected


@given(names)
def test_a_plain_name_is_no_pattern_and_matches_itself_alone(name):
    assert not is_pattern(name)
    assert check_pattern(name) == name
    assert [other for other in ALL_NAMES if matches(name, other)] == [name]


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb", "a\x00", "\x7f", "\ud800", 5, None, ["a"]])
def test_what_can_not_name_a_topic_is_refused(name):
    with pytest.raises(Invalid):
        check_name(name)


@pytest.mark.parametrize("name", ["x" * 255, "users/v1:add", "žluťoučký kůň", "__proto__", "😀", "a b", "a\xa0b"])
def test_any_other_text_names_a_topic(name):
    assert check_name(name) == name


@pytest.mark.parametrize("key", ["", "k" * 1025, "\u00e9" * 513, "\U0001f600" * 257, "a\ud800"])
def test_what_can_not_be_stored_by_is_refused(key):
    with pytest.raises(Invalid):
        check_key(key)


@pytest.mark.parametrize("key", ["k" * 1024, "\u00e9" * 512, "\U0001f600" * 256, "a\0b", "a\nb", "\x7f", ">", "*"])
def test_any_other_text_is_a_key(key):
    assert check_key(key) == key


IMPOSSIBLE = [
    *("a..*", "*.", ".>", "a..b*", ".*", "*..a", "a*.", "a.*."),  # an empty token
    *(">.a", "a.>.b", "a>", ">a", "a.>b", "a>b", ">>", "a>.b", ">*", "a.>*"),  # ">" elsewhere
    *("*a", "a*b", "a*.b", "*a*", "**", "a.**", "a.*b*", "*>", "a*>", "a*b*"),  # "*" glued elsewhere
    "a" * 255 + "*",
]


@pytest.mark.parametrize("pattern", IMPOSSIBLE)
def test_a_pattern_that_can_match_nothing_is_refused(pattern):
    with pytest.raises(Invalid):
        check_pattern(pattern)


@pytest.mark.parametrize("pattern", ["*", ">", "a.*", "*.a", "*.*.>", "job:*", "a.b*", "*.b*", "a" * 254 + "*"])
def test_a_pattern_that_can_match_something_is_one(pattern):
    assert check_pattern(pattern) == pattern
    assert is_pattern(pattern)


@given(st.text("ab*>.", max_size=7))
def test_what_holds_a_wildcard_character_is_a_pattern_or_refused(text):
    try:
        check_pattern(text)
    except Invalid:
        return
    assert is_pattern(text) is ("*" in text or ">" in text)


@pytest.mark.parametrize("name", ["a", "a..b", ".a", "a.", ".", "wait..."])
def test_a_name_without_wildcard_characters_may_have_empty_tokens(name):
    assert not is_pattern(name)
    assert check_pattern(name) == name


@pytest.mark.parametrize("name", ["*", ">", "job:*", "a*b", "a>", "a.>.b"])
def test_a_name_that_holds_wildcard_characters_matches_itself(name):
    assert check_name(name) == name
    assert matches(name, name)


@pytest.mark.parametrize(
    ("pattern", "beginning"),
    [("job:*", "job:"), ("a.*", "a."), ("a.>", "a."), ("a.b*", "a.b"), ("*.b", ""), (">", ""), ("a.b", "a.b")],
)
def test_all_that_a_pattern_matches_begins_alike(pattern, beginning):
    assert literal_beginning(pattern) == beginning


def test_no_two_pairs_have_one_key():
    texts = ["", "a", "1", ":", "1:", "a1:", "1:a", "ab"]
    assert len({pair_key(first, second) for first in texts for second in texts}) == len(texts) ** 2


@pytest.mark.parametrize(
    "pattern",
    [".".join(["a"] * MAX_TOKENS + ["*"]), ".".join(["*"] * (MAX_WILDCARDS + 1)), ".".join(["a"] * MAX_TOKENS + [">"])],
)
def test_a_pattern_has_so_many_tokens_and_wildcards_and_no_more(pattern):
    with pytest.raises(Invalid):
        check_pattern(pattern)
    shorter = pattern.split(".", 1)[1]
    assert check_pattern(shorter) == shorter


def test_a_name_may_have_any_number_of_tokens():
    assert check_pattern(".".join("a" * 128)) == ".".join("a" * 128)
