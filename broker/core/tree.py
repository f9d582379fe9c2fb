"""Patterns in a tree of their tokens, and who listens to each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import attrs

from broker.core.bounded import BoundedDict
from broker.patterns import is_prefix

MAX_CACHED = 1024  # names whose patterns are remembered
MAX_CACHED_NODES = 64  # patterns of a name that is remembered

L = TypeVar("L")  # a listener
T = TypeVar("T")  # what is known of it


@attrs.define(eq=False)
class Node(Generic[L, T]):
    """A node of the tree.

    Attributes:
        children: by the next token, as patterns have it.
        pattern: the one that ends here, "" when there is none.
        listeners: of it.
        lengths: of the prefixes among the tokens of the children: how many there are of each length.
    """

    children: dict[str, Node[L, T]] = attrs.field(factory=dict)
    pattern: str = ""
    listeners: dict[L, T] = attrs.field(factory=dict)
    lengths: dict[int, int] = attrs.field(factory=dict)

    def count_prefix(self, token: str, change: int) -> None:
        """Count a child more or less, if *token* is a prefix."""
        if is_prefix(token):
            length = len(token) - 1
            count = self.lengths[length] = self.lengths.get(length, 0) + change
            if not count:
                del self.lengths[length]

    def prefixes_of(self, token: str) -> Iterator[Node[L, T]]:
        """Yield the children whose prefix *token* begins with: one look for each length there is."""
        for length in self.lengths:
            if length <= len(token) and (child := self.children.get(token[:length] + "*")) is not None:
                yield child


class PatternTree(Generic[L, T]):
    """Patterns, each with its listeners.

    Attributes:
        count: how many patterns there are.
        visited: how many nodes were looked at, ever.
    """

    def __init__(self) -> None:
        self.count = 0
        self.visited = 0
        self._root: Node[L, T] = Node()
        self._cached: BoundedDict[str, list[Node[L, T]]] = BoundedDict(MAX_CACHED)

    def insert(self, pattern: str) -> dict[L, T]:
        """Return the listeners of *pattern*, to which at least one is to be added."""
        node = self._root
        for token in pattern.split("."):
            following = node.children.get(token)
            if following is None:
                following = node.children[token] = Node()
                node.count_prefix(token, 1)
            node = following
        if not node.pattern:
            node.pattern = pattern
            self.count += 1
            self._cached.clear()
        return node.listeners

    def remove(self, pattern: str, listener: L) -> bool | None:
        """Remove *listener* from *pattern*; say whether it was the last, None: it was not there."""
        path, node = [], self._root
        tokens = pattern.split(".")
        for token in tokens:
            path.append(node)
            following = node.children.get(token)
            if following is None:
                return None
            node = following
        if listener not in node.listeners:
            return None
        del node.listeners[listener]
        if node.listeners:
            return False
        node.pattern = ""
        self.count -= 1
        self._cached.clear()
        for parent, token in zip(reversed(path), reversed(tokens), strict=True):
            if node.children or node.pattern:
                break
            del parent.children[token]
            parent.count_prefix(token, -1)
            node = parent
        return True

    def items(self) -> Iterator[tuple[str, dict[L, T]]]:
        """Yield each pattern with its listeners; the tree must not change meanwhile."""
        nodes = [self._root]
        while nodes:
            node = nodes.pop()
            if node.pattern:
                yield node.pattern, node.listeners
            nodes += node.children.values()

    def matching(self, name: str) -> list[Node[L, T]]:
        """Return the nodes of the patterns that match *name*; not to be changed."""
        found = self._cached.get(name)
        if found is None:
            found = self._search(name)
            if len(found) <= MAX_CACHED_NODES:
                self._cached[name] = found
        return found

    def _search(self, name: str) -> list[Node[L, T]]:
        found: list[Node[L, T]] = []
        nodes = [self._root]
        for token in name.split("."):
            following: list[Node[L, T]] = []
            # A name may have wildcard characters of its own: their nodes are visited once.
            literal = token != ">" and token[-1:] != "*"
            self.visited += len(nodes)
            for node in nodes:
                children = node.children
                rest = children.get(">")
                if rest is not None and rest.pattern:
                    found.append(rest)
                if node.lengths:
                    found += node.prefixes_of(token)
                if literal and (child := children.get(token)) is not None:
                    following.append(child)
                if (child := children.get("*")) is not None:
                    following.append(child)
            if not following:
                return found
            nodes = following
        found += [node for node in nodes if node.pattern]
        return found
