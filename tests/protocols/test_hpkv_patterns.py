"""Which keys a pattern admits, and that finding out never takes long."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Invalid
from protocols.hpkv.patterns import access_pattern, any_of, glob, rights, subscription_pattern, widened
from protocols.hpkv.regex import MAX_MOVES, Regex
from protocols.hpkv.syntax import Malformed, Refused

# pattern, key, admitted as accessPattern, heard of as one of subscribePatterns
TABLE = [
    ("sub-test-*", "sub-test-x-1", True, True),
    ("sub-test-*", "restricted-key-1", False, False),
    ("sub-test-*", "x-sub-test-1", True, False),
    ("^user:[0-9]+$", "user:123", True, True),
    ("^user:[0-9]+$", "user:123:visits", False, False),
    ("^product:*$", "product:phone:modelA", True, True),
    ("^product:*$", "order:1", False, False),
    ("^(product|user):*$", "user:session:9", True, True),
    ("^(product|user):*$", "order:1", False, False),
    ("product:headphone:*", "product:headphone:modelB", True, True),
    ("product:headphone:*", "product:phone:modelA", False, False),
    ("*:modelA", "product:headphone:modelA", True, True),
    ("user:123", "user:1234", True, False),
    ("^[a-z]*$", "abc", True, True),
    ("^[a-z]*$", "ab1", False, False),
    ("^ns:.*$", "ns:\u00ff", True, True),
    ("a[:*]b", "a*b", True, True),
    (r"^a\:*$", "a:::", True, True),
    (r"^a\:*$", "a:x", False, False),
    ("[unclosed", "[unclosed", True, True),
    ("[unclosed", "x[unclosed", False, False),
]


@pytest.mark.parametrize(("pattern", "key", "access", "subscribe"), TABLE)
def test_the_table(pattern, key, access, subscribe):
    assert rights((), (), pattern).may(key) is access
    heard = rights((), (pattern,), "")
    assert (key in heard.names or (heard.predicate is not None and heard.predicate(key))) is subscribe


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("a:*", "a:.*"),
        ("a:**", "a:.**"),
        ("^(a|*)$", "^(a|.*)$"),
        (r"a\:*", r"a\:*"),
        (r"a\\:*", r"a\\:.*"),
        ("[:*]*", "[:*]*"),
        ("[:]:*", "[:]:.*"),
        ("a/*b-*c_*d#*", "a/.*b-.*c_.*d#.*"),
        ("a.*", "a.*"),
    ],
)
def test_a_star_behind_a_separator_is_anything(text, made):
    assert widened(text) == made


def test_without_an_access_pattern_one_may_use_what_one_hears_of():
    may = rights(("one",), ("two", "three:*"), "").may
    assert [may(key) for key in ("one", "two", "three:x", "four", "One", "")] == [True, True, True, False, False, False]
    assert not rights((), (), "").may("anything")


def test_a_subscribed_key_is_a_key_and_no_pattern():
    heard = rights(("a*", ".*"), (), "")
    assert (heard.names, heard.predicate) == ({"a*", ".*"}, None)  # type: ignore[comparison-overlap]


def test_the_same_patterns_are_one_question():
    assert rights((), ("a*", "b*"), "").predicate is rights(("k",), ("b*", "a*", "c"), "x").predicate
    assert any_of(()) is None


@pytest.mark.parametrize(
    ("pattern", "keys", "others"),
    [
        ("a*c", ["ac", "abc", "a*c"], ["a", "c", "abcd", "xabc"]),
        ("*", ["", "a", "a\nb"], []),
        ("*a*b*", ["ab", "xaxbx"], ["ba", "a", "b"]),
        ("a**b", ["ab", "axb"], ["a"]),
        ("aba*aba", ["abaaba", "abaxaba"], ["aba", "ababa"]),
        ("plain", ["plain"], ["plain "]),
        ("a*b*b", ["abb", "axbxb"], ["ab"]),
    ],
)
def test_glob(pattern, keys, others):
    assert [glob(pattern)(key) for key in keys + others] == [True] * len(keys) + [False] * len(others)


@given(st.text("a*b", max_size=8), st.text("ab", max_size=10))
def test_glob_is_what_it_says(pattern, key):
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), key, re.DOTALL) is not None
    assert glob(pattern)(key) is expected


# Regular expressions

SAME = [
    "a",
    "",
    "ab|c",
    "a*",
    "a+b?",
    "^a",
    "a$",
    "^$",
    "^a$",
    "a{2}",
    "a{2,}",
    "a{1,3}",
    "^a{0}$",
    "(ab)+",
    "(?:ab|c)*d",
    "[abc]+",
    "[^abc]",
    "[a-c-]",
    "[-a]",
    r"\d+",
    r"\w",
    r"\s",
    r"\D",
    r"[\d\-]",
    r"\.",
    r"\t",
    r"\x61",
    r"\u0061",
    ".",
    "a.c",
    "a*?b",
    "a+?",
    "(a|b)?c",
    "^(a|b)*$",
    "a{",
    "}",
    "a{x}",
    "(a(b(c)))",
    "^^a",
    "a|^b|c$",
    "(?:)",
    "()",
    "a||b",
    "$a",
    "a^",
    r"\/",
    r"[.]",
    "(?:a|b*)c",
    "(?:a{1,2}){2}",
    "[a\\]]",
    r"[\w-]",
    "a{2,3}?",
]


@pytest.mark.parametrize("pattern", SAME)
def test_regexes_match_as_they_do_elsewhere(pattern):
    mine, theirs = Regex(pattern), re.compile(pattern, re.ASCII)
    for text in (
        "",
        "a",
        "b",
        "ab",
        "abc",
        "aab",
        "aaa",
        "cab",
        "xabcx",
        "1",
        "-",
        ".",
        " ",
        "\t",
        "ac",
        "a{x}",
        "x{,2}",
        "abcd",
        "é",
        "]",
        "/",
    ):
        assert mine.search(text) is (theirs.search(text) is not None), text


atoms = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "(?:a|b)", "(?:ab)", "(?:a|)", r"\w"])
quantified = st.tuples(atoms, st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,2}", "{0,}", "*?"])).map("".join)
sequences = st.lists(quantified | st.sampled_from(["^", "$"]), max_size=5).map("".join)
patterns = st.lists(sequences, min_size=1, max_size=3).map("|".join)


@given(patterns, st.text("abc", max_size=8))
def test_random_regexes_match_as_they_do_elsewhere(pattern, text):
    assert Regex(pattern).search(text) is (re.search(pattern, text) is not None)


def test_what_javascript_does_otherwise():
    assert Regex("a$").search("a\n") is False
    assert Regex(r"^\w$").search("é") is False
    assert [Regex("^.$").search(end) for end in "\n\r\u2028\u2029\x0b"] == [False, False, False, False, True]
    assert Regex("[]").search("a") is False
    assert Regex("^[^]$").search("\n") is True
    assert Regex(r"^\s$").search("\ufeff") is True
    assert Regex(r"[\b]").search("\b") is True
    assert Regex(r"^\0$").search("\0") is True
    assert Regex("(?<name>a)b").search("ab") is True
    assert Regex(r"\_").search("_") is True
    assert Regex(r"^[\w-z]$").search("-") is True
    assert Regex("a{1,2").search("a{1,2") is True
    assert Regex("^x{,2}$").search("x{,2}") is True


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "+a",
        "?",
        "a**",
        "a+*",
        "(",
        ")",
        "a)",
        "(a",
        "[a",
        "a\\",
        "^*",
        "[b-a]",
        "a{2,1}",
        "{1}",
        "(?a)",
        "a{1}{2}",
        "(?",
        "[\\",
        "[a-",
        "a??*",
    ],
)
def test_what_is_no_regex(text):
    with pytest.raises(Malformed):
        Regex(text)


REFUSED = [
    "(a+)+",
    "(a*)*",
    "((a+)b)*",
    "(a|b+)*",
    "(a+){2,}",
    "(?:a*b)+",
    "(?=a)",
    "(?!a)",
    "(?<=a)",
    "(?<!a)",
    r"\b",
    r"\B",
    r"(a)\1",
    r"\k<a>",
    r"\p{L}",
    r"[\D]",
    "a{256}",
    "a{1000}",
    "(a{200}){200}",
    "[a\\1]",
    "(" * 5000,
]


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:20])
def test_what_is_not_taken(text):
    with pytest.raises(Refused):
        Regex(text)


@pytest.mark.parametrize("text", [*REFUSED, "x" * 257], ids=lambda text: text[:20])
def test_what_is_not_taken_is_told(text):
    with pytest.raises(Invalid, match="Invalid access pattern"):
        access_pattern(text)
    with pytest.raises(Invalid, match="Invalid subscribe pattern"):
        subscription_pattern(text + "(?=a)")


def test_a_long_glob_is_not_taken():
    with pytest.raises(Invalid):
        subscription_pattern("*" + "x" * 256)


NASTY = [
    "a.*a.*a.*a.*a.*b$",
    "(a|a)*b",
    "(a|aa)*b",
    "(.*)(.*)(.*)(.*)x",
    ".*a.{100}$",
    "(?:a?){60}a{60}$",
    "(a|b|ab)*c",
    "(?:x|a{1,20}){20}$",
    "^(([a-z])+.)+[A-Z]([a-z])+$",
]


@pytest.mark.parametrize("pattern", NASTY)
def test_no_pattern_and_no_key_take_long(pattern):
    """A matcher that backtracks would not end within the time limit of a test."""
    try:
        search = Regex(pattern).search
    except Refused:
        return
    for key in ("a" * 1023 + "!", "ab" * 512, "a" * 1024):
        assert search(key) in (True, False)


def test_what_is_remembered_of_a_pattern_has_a_limit():
    regex = Regex("^a[^z]*z$")
    for number in range(3 * MAX_MOVES):
        assert regex.search(f"a{chr(300 + number)}z")
    assert regex._moves <= MAX_MOVES
    assert sum(len(place.moves) for place in regex._places.values()) <= MAX_MOVES + 1
