"""Which keys a pattern allows, and that finding out never takes long."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Invalid, TooLarge
from broker.remembered import forget_results
from protocols.hpkv.javascript import NotRegex, Unsupported, to_re2
from protocols.hpkv.patterns import (
    MAX_PATTERNS,
    AnyOf,
    access_pattern,
    any_of,
    glob,
    rights,
    subscription_pattern,
    widened,
)

# pattern, key, allowed as accessPattern, notified as one of subscribePatterns
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


def test_the_same_patterns_are_one_question_while_somebody_asks_it():
    one = rights((), ("a*", "b*"), "").predicate
    assert one is rights(("k",), ("b*", "a*", "c"), "x").predicate
    for number in range(2000):
        rights((), (f"other{number}*",), "")
    assert one is rights((), ("a*", "b*"), "").predicate
    assert any_of(()) is None


def test_patterns_that_nobody_uses_are_given_up():
    from protocols.hpkv.patterns import MAX_CACHED, _shared

    for number in range(MAX_CACHED + 50):
        rights((), (f"^unused{number}",), "")
    gc.collect()
    assert len([patterns for patterns in _shared if patterns[0].startswith("^unused")]) <= MAX_CACHED


def test_a_token_has_so_many_patterns_and_any_number_of_keys():
    keys = tuple(f"k{number}" for number in range(1000))
    patterns = tuple(f"p{number}*" for number in range(MAX_PATTERNS))
    assert rights(keys, (*patterns, "plain"), "").may("p31x")
    with pytest.raises(TooLarge):
        rights((), (*patterns, "one more*"), "")


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


def found(pattern, key):
    """Whether the regular expression *pattern*, taken as it is, is found in *key*."""
    return access_pattern(pattern)(key)


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


@pytest.mark.parametrize("pattern", [pattern for pattern in SAME if pattern])
def test_regexes_match_as_they_do_elsewhere(pattern):
    mine, theirs = access_pattern(pattern), re.compile(pattern, re.ASCII)
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
        assert mine(text) is (theirs.search(text) is not None), text


atoms = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "(?:a|b)", "(?:ab)", "(?:a|)", r"\w"])
quantified = st.tuples(atoms, st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,2}", "{0,}", "*?"])).map("".join)
sequences = st.lists(quantified | st.sampled_from(["^", "$"]), max_size=5).map("".join)
patterns = st.lists(sequences, min_size=1, max_size=3).map("|".join)


@given(patterns, st.text("abc", max_size=8))
def test_random_regexes_match_as_they_do_elsewhere(pattern, text):
    assert found(pattern, text) is (re.search(pattern, text) is not None)


# What each says in JavaScript; Python's own, or RE2's, would say otherwise to most of them.
JAVASCRIPT = [
    ("a$", "a\n", False),
    (r"^\w$", "é", False),
    (r"^\d$", "\u0661", False),
    ("^.$", "\n", False),
    ("^.$", "\r", False),
    ("^.$", "\u2028", False),
    ("^.$", "\u2029", False),
    ("^.$", "\x0b", True),
    ("^b", "a\nb", False),
    ("A", "a", False),
    ("[]", "a", False),
    ("[]a]", "a]", False),
    ("^[^]$", "\n", True),
    ("^[^]$", "\U0001f600", True),
    (r"^\s$", "\ufeff", True),
    (r"^\s$", "\x0b", True),
    (r"^\s$", "\u3000", True),
    (r"^\S$", "\u3000", False),
    (r"^[\s-]$", "\xa0", True),
    (r"^[\S]$", "\xa0", False),
    (r"^[\S]$", "x", True),
    (r"^[^\S]$", "\u2003", True),
    (r"^[\D]$", "1", False),
    (r"^[\D]$", "x", True),
    (r"[\b]", "\b", True),
    (r"\bab\b", "x ab", True),
    (r"\bab\b", "xab", False),
    (r"^\0$", "\0", True),
    (r"^[\0]$", "\0", True),
    ("(?<name>a)b", "ab", True),
    ("(?<$n>a)", "a", True),
    (r"\_", "_", True),
    (r"^\é$", "é", True),
    (r"^\A$", "A", True),
    (r"^\z$", "z", True),
    (r"^\C$", "C", True),
    (r"^\a$", "a", True),
    (r"^\Qa\E$", "QaE", True),
    (r"^\x$", "x", True),
    (r"^\u00$", "u00", True),
    (r"^\cA$", "\x01", True),
    (r"^\u00e9$", "é", True),
    (r"^\xe9$", "é", True),
    (r"^\ud83d\ude00$", "\U0001f600", True),
    (r"^[\w-z]$", "-", True),
    (r"^[a-\d]$", "-", True),
    (r"^[a-\d]$", "b", False),
    ("^[[:alpha:]]$", "l]", True),
    ("^[[:alpha:]]$", "b", False),
    ("^[[]$", "[", True),
    ("^[a^]$", "^", True),
    ("a{1,2", "a{1,2", True),
    ("^x{,2}$", "x{,2}", True),
    ("^x{,2}$", "xx", False),
    ("žlu.*ký", "žluťoučký", True),
    ("^.$", "\U0001f600", True),
    ("", "anything", True),
    ("x|", "anything", True),
]


@pytest.mark.parametrize(("pattern", "text", "matches"), JAVASCRIPT)
def test_a_regex_means_what_it_means_in_javascript(pattern, text, matches):
    to_re2(pattern)  # else it would be a glob
    assert access_pattern(pattern)(text) is matches


def test_a_lone_surrogate_in_a_key_is_a_character_as_in_javascript():
    matches = {pattern: access_pattern(pattern)("\ud800") for pattern in ("^.$", "a", "^[^]$", "\ud7ff")}
    assert matches == {"^.$": True, "a": False, "^[^]$": True, "\ud7ff": False}


NO_REGEX = [
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
    "$+",
    r"\b*",
    "[b-a]",
    "a{2,1}",
    "{1}",
    "(?a)",
    "(?i)a",
    "(?i:a)",
    "(?P<n>a)",
    "a{1}{2}",
    "(?",
    "[\\",
    "[a-",
    "a??*",
    "(*a)",
]


@pytest.mark.parametrize("text", NO_REGEX)
def test_what_is_no_regex_is_a_glob(text):
    allowed = access_pattern(text)
    assert [allowed(key) for key in (text, text.replace("*", "xyz"), "b" + text + "b")] == [
        True,
        True,
        text.startswith("*") and text.endswith("*"),
    ]


UNSUPPORTED = [
    "(a+)+",
    "(a*)*",
    "((a+)b)*",
    "(a|b+)*",
    "(a+){2,}",
    "(?:a*b)+",
    "((a+))+",
    "(?=a)",
    "(?!a)",
    "(?<=a)",
    "(?<!a)",
    "a(?=b)",
    r"(a)\1",
    r"\1",
    r"\k<a>",
    r"(?<a>x)\k<a>",
    r"\p{L}",
    r"\P{L}",
    r"[a\1]",
    r"[\B]",
    r"\ud800",
    r"[\ud800-\udfff]",
    "\ud800",
    "a{1001}",
    "a{1,99999999999}",
    "(a{200}){200}",
    "((a{1,255}){1,255})",
    "((((){255}){255}){255}){255}",
    "((){255}){255}",
    "(((){255}){255}){60}",
    "((){1000}){1000}",
    "(?:.{100}){9}",
    "[^a]{1000}",
    "(" * 5000,
]


@pytest.mark.parametrize("text", UNSUPPORTED, ids=lambda text: text[:20].encode("ascii", "replace").decode())
def test_what_is_refused_is_told_at_once(text):
    began = perf_counter()
    with pytest.raises(Invalid, match="Invalid access pattern"):
        access_pattern(text)
    with pytest.raises(Invalid, match="Invalid subscribe pattern"):
        subscription_pattern(text + "(?=a)")
    assert perf_counter() - began < 10  # a machine's worst day; each takes some microseconds


def test_a_long_pattern_is_refused():
    with pytest.raises(Invalid):
        access_pattern("x" * 257)
    with pytest.raises(Invalid):
        subscription_pattern("*" + "x" * 256)
    assert access_pattern("x" * 256)("x" * 256)


NASTY = [
    "a.*a.*a.*a.*a.*b$",
    "(a|a)*b",
    "(a|aa)*b",
    "(.*)(.*)(.*)(.*)x",
    ".*a.{100}$",
    "(?:a?){60}a{60}$",
    "(?:a?b?){255}c",
    "[ab]*a[ab]{250}c",
    "[ab]{1,255}[ab]{1,255}[ab]{1,255}c$",
    "(a|b|ab)*c",
    "(?:x|a{1,20}){20}$",
]


@pytest.mark.parametrize("pattern", NASTY)
def test_no_pattern_and_no_key_take_long(pattern):
    """A matcher that backtracks would not end within the time limit of a test."""
    search = access_pattern(pattern)
    for key in ("a" * 1023 + "!", "ab" * 512, "a" * 1024):
        assert search(key) in (True, False)


def test_the_expressions_of_a_token_are_searched_for_all_at_once():
    heard = any_of(("^a|b$", "x*", "(c)", "y*z", "[d-f]{2}$"))
    assert isinstance(heard, AnyOf)
    assert len(heard.tests) == 3
    keys = ["a.", ".b", "x.", ".c.", "y.z", ".de", "b.", ".x", "de."]
    assert [heard(key) for key in keys] == [True] * 6 + [False] * 3


def test_so_many_instructions_are_searched_for_and_no_more():
    slow = [f"(.{{1,10}}){{1,10}}{number}" for number in range(4)]
    assert all(subscription_pattern(pattern)(f"....{number}") for number, pattern in enumerate(slow))
    with pytest.raises(TooLarge):
        rights((), tuple(slow), "")
    assert rights((), tuple(f"^user{number}:[0-9a-f]{{8}}$" for number in range(MAX_PATTERNS)), "").predicate


def test_re2_says_nothing_on_stderr(capfd):
    for text in ("a{1001}", "(?:.{100}){9}"):
        with pytest.raises(Invalid):
            access_pattern(text)
    access_pattern("[ab]*a[ab]{250}c")("ab" * 512)
    assert capfd.readouterr() == ("", "")


def test_who_makes_no_pattern_does_not_load_re2():
    code = "import sys, protocols.hpkv; from protocols.hpkv.patterns import rights; rights(('k',), ('a*',), '')"
    subprocess.run([sys.executable, "-c", code + "; sys.exit('re2' in sys.modules)"], check=True, timeout=60)


@given(st.text(max_size=20))
def test_any_text_is_a_pattern_or_refused(text):
    try:
        access_pattern(text)(text)
    except Invalid:
        pass


@given(st.text(r"ab\[]^$(){}?*+|-.,:<=!0123duxsSwWbBkpc", max_size=12))
def test_any_text_of_signs_is_a_pattern_or_refused(text):
    try:
        access_pattern(text)(text)
    except Invalid:
        return
    try:
        to_re2(widened(text))
    except (NotRegex, Unsupported):
        pass


def test_a_key_that_would_take_too_long_is_none_that_matches():
    allows = access_pattern("([ab]{1,20}a){12}c")
    assert allows("ab" * 100 + "aaac") or not allows("ab" * 100)
    longest = max(length for length in range(1024) if access_pattern("^a*(b{1,100}){3}a*$")("a" * length + "bbb"))
    assert longest < 1023
    assert access_pattern("^a*$")("a" * 1024)


def test_compiled_patterns_that_nobody_uses_go_when_memory_is_given_back():
    def made():
        return rights(("a",), ("b:*", "^c+$"), "^d*$")

    first = made()
    assert made() is first
    forget_results()
    assert made() is not first
