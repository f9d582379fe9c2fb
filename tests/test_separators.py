"""Names of other protocols: each has one counterpart, and patterns match the same on both sides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Invalid
from broker.patterns import is_pattern, matches
from broker.separators import MQTT, Separators

NATS, COLONS, AMQP = Separators(".", "*", ">"), Separators(":", "?", "~"), Separators(".", "*", "#")
KINDS = [MQTT, NATS, COLONS, AMQP]
names = st.text("ab./+#*>:?~é", max_size=12)
tokens = st.text("ab.*>", min_size=1, max_size=3)  # of MQTT, where these are ordinary characters
mqtt_names = st.lists(tokens, min_size=1, max_size=4).map("/".join)


@st.composite
def filters(draw):
    levels = draw(st.lists(st.one_of(tokens, st.just("+")), min_size=1, max_size=4))
    return "/".join([*levels, "#"] if draw(st.booleans()) else levels)


def mqtt_matches(written: str, name: str) -> bool:
    """MQTT 3.1.1, 4.7.1, of names that do not begin with ``$``."""
    levels, tokens = written.split("/"), name.split("/")
    for index, level in enumerate(levels):
        if level == "#":
            return len(tokens) >= index  # "the multi-level wildcard represents the parent", too
        if index >= len(tokens) or level not in ("+", tokens[index]):
            return False
    return len(levels) == len(tokens)


@pytest.mark.parametrize(
    ("topic", "name"),
    [
        ("a.b", "a/b"),
        ("a/b", "a.b"),
        ("a.b/c", "a/b.c"),
        ("users/v1", "users.v1"),
        ("c++", "c**"),
        ("kv/x.y", "kv.x/y"),
    ],
)
def test_a_topic_has_another_name_over_mqtt(topic, name):
    assert (MQTT.name(topic), MQTT.topic(name)) == (name, topic)


@given(kind=st.sampled_from(KINDS), name=names)
def test_every_name_comes_back_as_it_was(kind, name):
    assert kind.topic(kind.name(name)) == name
    assert kind.name(kind.topic(name)) == name


@given(first=names, second=names)
def test_two_names_are_never_one_topic(first, second):
    assert (MQTT.topic(first) == MQTT.topic(second)) == (first == second)


@pytest.mark.parametrize(
    ("written", "patterns"),
    [
        ("a/b", ("a.b",)),
        ("a/+/c", ("a.*.c",)),
        ("a/#", ("a", "a.>")),
        ("+/#", ("*", "*.>")),
        ("#", (">",)),
        ("a/*", ("a.+",)),
        ("a.b/+", ("a/b.*",)),
    ],
)
def test_a_filter_is_patterns_of_the_broker(written, patterns):
    assert MQTT.patterns(written) == patterns


@given(written=filters(), name=mqtt_names)
def test_a_filter_matches_the_same_on_both_sides(written, name):
    found = [matches(pattern, MQTT.topic(name)) for pattern in MQTT.patterns(written)]
    assert any(found) == mqtt_matches(written, name)
    assert sum(found) <= 1


@given(written=filters(), name=mqtt_names)
def test_a_pattern_matches_the_same_on_both_sides(written, name):
    for pattern in MQTT.patterns(written):
        assert mqtt_matches(MQTT.written(pattern), name) == matches(pattern, MQTT.topic(name))


@given(written=filters())
def test_a_filter_without_wildcards_is_no_pattern(written):
    patterns = MQTT.patterns(written)
    assert any(map(is_pattern, patterns)) != MQTT.is_name(written)


@pytest.mark.parametrize("written", ["a/b+", "+a", "a/#/b", "#/a", "a#", "a/b#", "", "/+", "a//#"])
def test_what_is_no_filter_is_refused(written):
    with pytest.raises(Invalid):
        MQTT.patterns(written)


@pytest.mark.parametrize("pattern", ["job:*", "a.b*"])
def test_a_pattern_without_a_counterpart_is_refused(pattern):
    with pytest.raises(Invalid):
        MQTT.written(pattern)


@pytest.mark.parametrize("words", ["//+", "*+#", "/.#", ("ab", "+", "#"), ("", "+", "#")])
def test_separators_that_can_not_be_exchanged_are_refused(words):
    with pytest.raises(ValueError, match="can not be exchanged"):
        Separators(*words)
