"""Regular expressions as RE2 programs, and in whose name their memory is counted.

RE2 takes time in proportion to the text, whatever the expression, and no more memory than it is given.
What a program learns while it searches is kept in that memory.  A usual one learns little; one that could
learn more than there is room for is searched for slowly, within the bound of ``MAX_WORK``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakValueDictionary

from broker.errors import TooLarge
from protocols.hpkv.javascript import NotRegex, Unsupported

SIZES = (1 << 13, 1 << 15, 1 << 17, 1 << 20)  # bytes of memory of a program: the first that has room for it
ROOM = 64  # bytes for each instruction, of which it has 16 itself
MAX_INSTRUCTIONS = 8000  # of a program
MAX_WORK = 500_000  # instructions times bytes of a key, 7 ms at the worst; a longer key is none that matches


class User(Protocol):
    """Whose connection needs a program."""

    def hold(self, change: int) -> None:
        """Count *change* bytes more, or fewer, of memory that are held for it."""


class Program:
    """Says in which keys an expression is found.

    Whoever uses one joins it, and leaves it at its end: its memory is counted once, for one of its users.

    Args:
        compiled: the expression, as RE2 has it.
        max_bytes: of memory that RE2 may use for it, however many keys are looked at.

    Attributes:
        max_bytes: as above.
    """

    def __init__(self, compiled: Any, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._search: Callable[[bytes], Any] = compiled.search
        self._longest = MAX_WORK // compiled.programsize
        self._payer: User | None = None
        self._others: dict[User, None] = {}

    def __call__(self, key: str) -> bool:
        """Whether the expression is found in *key*."""
        # Whatever a dialect takes for a key: a lone surrogate is a character here, as in JavaScript.
        text = key.encode("utf-8", "surrogatepass")
        return len(text) <= self._longest and self._search(text) is not None

    def join(self, user: User) -> None:
        """Begin to be used by *user*, who has not joined yet, and may be disconnected for what it holds."""
        if self._payer is None:
            self._payer = user
            user.hold(self.max_bytes)
        else:
            self._others[user] = None

    def leave(self, user: User) -> None:
        """End to be used by *user*; somebody else pays if there is anybody."""
        if user is not self._payer:
            self._others.pop(user, None)
            return
        self._payer = None
        user.hold(-self.max_bytes)
        if self._others:
            self.join(self._others.popitem()[0])


_shared: WeakValueDictionary[str, Program] = WeakValueDictionary()


def search(expression: str) -> Program:
    """Return the program of *expression*: the same one for all, while somebody has it.

    Raises:
        NotRegex: a range of a class is out of order.
        TooLarge: RE2 refuses it, or it needs too much memory or time.
    """
    found = _shared.get(expression)
    if found is None:
        found = _shared[expression] = _program(expression)
    return found


def _program(expression: str) -> Program:
    for size in SIZES:
        try:
            compiled = compile_within(expression, size)
        except Unsupported:
            continue
        if compiled.programsize > MAX_INSTRUCTIONS:
            break
        if compiled.programsize * ROOM <= size:
            return Program(compiled, size)
    raise TooLarge("token")


def compile_within(expression: str, max_bytes: int) -> Any:
    """Return the RE2 *expression*, compiled, which uses at most *max_bytes* of memory.

    Raises:
        NotRegex: a range of a class is out of order.
        Unsupported: RE2 refuses it, or it needs more memory.
    """
    # Most brokers never see a pattern, and need neither its time nor its memory at the start.
    import re2

    options = re2.Options()
    options.max_mem = max_bytes
    options.never_capture = True
    options.log_errors = False  # it would write to stderr
    try:
        return re2.compile(expression.encode(), options)
    except re2.error as error:
        if b"character class range" in error.args[0]:
            raise NotRegex("a range is out of order") from None
        raise Unsupported("refused by RE2") from None
    finally:
        re2.purge()  # it keeps the last 128, which nobody may use any more
