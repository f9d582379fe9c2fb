"""Names as another protocol writes them, with separators and wildcards of its own.

The broker's names are split at ``.``, and its patterns have ``*`` and ``>``; see ``broker.patterns``.  A protocol that
splits names at another character sees each topic under another name, and no topic is renamed for it: the characters
are exchanged.  Over MQTT the topic ``a.b`` is ``a/b``, and the topic ``a/b``, whose name holds the separator of the
other side, is ``a.b``.  So every name has exactly one counterpart, and comes back as it was.  The wildcards are
exchanged likewise: what is a wildcard on one side is never an ordinary character on the other::

    MQTT.topic("home/light")          # "home.light"
    MQTT.name("home.light")           # "home/light"
    MQTT.patterns("home/+/light")     # ("home.*.light",)
    MQTT.patterns("home/#")           # ("home", "home.>"): there it matches the level above, too

Permissions, settings, and all other dialects, have the broker's names.
"""

from __future__ import annotations

import attrs

from broker.errors import Invalid
from broker.patterns import check_pattern, is_prefix

LEVEL, ONE, REST = ".", "*", ">"  # the broker's own


@attrs.frozen
class Separators:
    """How a protocol writes names and patterns.

    Attributes:
        level: the character between two tokens.
        one: the wildcard that stands for one token.
        rest: the wildcard that stands, as the last token, for all that follow.
        parent: whether what ends in *rest* matches also what stands before it, as ``a/#`` of MQTT matches ``a``.

    Raises:
        ValueError: they are not three different characters, or one stands for another of the broker's.
    """

    level: str
    one: str
    rest: str
    parent: bool = False
    _table: dict[int, str] = attrs.field(init=False, repr=False, eq=False)

    @_table.default
    def _exchanges(self) -> dict[int, str]:
        pairs = ((self.level, LEVEL), (self.one, ONE), (self.rest, REST))
        table: dict[int, str] = {}
        for theirs, ours in pairs:
            if len(theirs) != 1 or ord(theirs) in table or ord(ours) in table:
                raise ValueError(f"{self.level!r}, {self.one!r} and {self.rest!r} can not be exchanged for '. * >'")
            table[ord(theirs)], table[ord(ours)] = ours, theirs
        return table

    def topic(self, name: str) -> str:
        """Return the topic that the protocol calls *name*."""
        return name.translate(self._table)

    def name(self, topic: str) -> str:
        """Return what the protocol calls *topic*; see ``is_name``."""
        return topic.translate(self._table)

    def is_name(self, name: str) -> bool:
        """Whether *name* may name one topic in the protocol: it holds no wildcard.

        The name of a topic whose own name holds ``*`` or ``>`` does: a protocol that allows no such names can not
        tell its clients of it.
        """
        return self.one not in name and self.rest not in name

    def patterns(self, written: str) -> tuple[str, ...]:
        """Return the patterns, or the name, that match together what *written* matches: what to subscribe to.

        No name is matched by two of them.

        Raises:
            Invalid: a wildcard is not a whole token, or *rest* not the last one; or it can not be a pattern of the
                broker, as one with an empty token.
        """
        if self.is_name(written):
            return (check_pattern(self.topic(written)),)
        *before, last = written.split(self.level)
        if any(not self.is_name(token) for token in before if token != self.one):
            raise Invalid("pattern", written)
        if not self.is_name(last) and last not in (self.one, self.rest):
            raise Invalid("pattern", written)
        pattern = check_pattern(self.topic(written))
        if last == self.rest and before and self.parent:
            return check_pattern(self.topic(self.level.join(before))), pattern
        return (pattern,)

    def written(self, pattern: str) -> str:
        """Return how the protocol writes *pattern*, or a name, of the broker; it matches the same names.

        Raises:
            Invalid: it has no words for that: the last token stands for whatever begins with a text.
        """
        if is_prefix(pattern.split(LEVEL)[-1]):
            raise Invalid("pattern", pattern)
        text = self.name(pattern)
        if self.parent and text.endswith(self.level + self.rest):
            return text[: -len(self.rest)] + self.one + self.level + self.rest  # one token or more
        return text


MQTT = Separators("/", "+", "#", parent=True)
