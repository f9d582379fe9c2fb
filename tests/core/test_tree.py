"""The tree of patterns: what matches is found by few looks, and remembered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.core.tree import MAX_CACHED_NODES, PatternTree
from broker.patterns import matches

tokens = st.sampled_from(["a", "b", "*"])
patterns = st.builds(
    lambda head, last: ".".join([*head, last]),
    st.lists(tokens, max_size=3),
    st.sampled_from(["a", "b", "*", ">", "a*", "ab*", "b*"]),
)
names = st.lists(st.sampled_from(["a", "b", "c", "ab", "abc", "*", ">", "a*"]), min_size=1, max_size=5).map(".".join)


def found(tree, name):
    return sorted(node.pattern for node in tree.matching(name))


def test_the_patterns_of_a_name_are_looked_for_once():
    tree = PatternTree()
    for pattern in ("a.*", "a.>", "b.*"):
        tree.insert(pattern)["ann"] = None
    assert found(tree, "a.x") == found(tree, "a.x") == ["a.*", "a.>"]
    assert tree.visited == 2
    assert found(tree, "c.x") == []
    assert tree.visited == 3


def test_what_is_remembered_ends_when_a_pattern_comes_or_goes():
    tree = PatternTree()
    tree.insert("a.*")["ann"] = None
    assert found(tree, "a.x") == ["a.*"]
    tree.insert("*.x")["ann"] = None
    assert found(tree, "a.x") == ["*.x", "a.*"]
    assert not tree.remove("a.*", "bob")
    assert tree.remove("a.*", "ann")
    assert not tree.remove("a.*", "ann")
    assert not tree.remove("never", "ann")
    assert found(tree, "a.x") == ["*.x"]


def test_a_listener_more_is_seen_without_another_search():
    tree = PatternTree()
    tree.insert("a.*")["ann"] = None
    tree.matching("a.x")
    tree.insert("a.*")["bob"] = None
    assert [list(node.listeners) for node in tree.matching("a.x")] == [["ann", "bob"]]
    assert tree.visited == 2
    assert not tree.remove("a.*", "ann")
    assert tree.remove("a.*", "bob")
    assert tree.count == 0


def test_a_name_of_many_patterns_is_not_remembered():
    tree = PatternTree()
    for number in range(2):
        for length in range(MAX_CACHED_NODES):
            tree.insert(".".join(["*", "a" if number else "*", *["*"] * length]) + ".>")["ann"] = None
    name = ".".join("a" * 200)
    assert len(tree.matching(name)) == 2 * MAX_CACHED_NODES
    looks = tree.visited
    tree.matching(name)
    assert tree.visited == 2 * looks


def test_one_of_many_prefixes_is_found_by_one_look_for_each_length():
    tree = PatternTree()
    for number in range(10_000):
        tree.insert(f"user:{number:04}:*")["ann"] = None
    assert found(tree, "user:0815:name") == ["user:0815:*"]
    assert (tree.visited, tree._root.lengths) == (1, {10: 10_000})
    for number in range(10_000):
        tree.remove(f"user:{number:04}:*", "ann")
    assert (tree.count, tree._root.lengths, tree._root.children) == (0, {}, {})


@given(st.lists(patterns, max_size=8), st.lists(patterns, max_size=4), st.lists(names, min_size=1, max_size=4))
def test_a_tree_finds_what_a_list_finds(inserted, removed, asked):
    tree = PatternTree()
    for pattern in inserted:
        tree.insert(pattern)["ann"] = None
    for name in asked:
        assert found(tree, name) == sorted({p for p in inserted if matches(p, name)})
    for pattern in removed:
        tree.remove(pattern, "ann")
    left = {*inserted} - {*removed}
    for name in asked:
        assert found(tree, name) == sorted(p for p in left if matches(p, name))
    assert tree.count == len(left)
