r"""JavaScript's regular expressions, without flags, written as RE2 writes them.

The two agree on nearly everything.  Where the same text means something else to each,
or is an error to one of them only, :func:`to_re2` rewrites it: ``.`` and ``\s``,
the classes ``[]`` and ``[^]``, a ``[`` within a class, escapes of letters, ``\uXXXX``
and the names of groups.
"""

from __future__ import annotations

import re

MAX_COUNT_DIGITS = 4  # of a number in {n,m}; RE2 itself allows up to 1000 repeats

ANY = r"[^\n\r\x{2028}\x{2029}]"
EVERY = r"\x{0}-\x{10FFFF}"
# Members of a class: those of \s ("WhiteSpace" and "LineTerminator"), and all others.
SPACE = r"\t-\r\x{20}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}"
NOT_SPACE = (
    r"\x{0}-\x{8}\x{E}-\x{1F}\x{21}-\x{9F}\x{A1}-\x{167F}\x{1681}-\x{1FFF}\x{200B}-\x{2027}\x{202A}-\x{202E}"
    r"\x{2030}-\x{205E}\x{2060}-\x{2FFF}\x{3001}-\x{FEFE}\x{FF00}-\x{10FFFF}"
)

_ESCAPE = r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|c[A-Za-z]|.)"
_tokens = re.compile(
    rf"""
      (?P<escape>{_ESCAPE})
    | (?P<set>\[\^?(?:\\.|[^\]\\])*\])
    | (?P<open>\((?:\?(?::|<[A-Za-z_$][\w$]*>|=|!|<=|<!|)|))
    | (?P<close>\))
    | (?P<repeat>(?:[*+?]|\{{(?P<low>\d+)(?P<comma>,)?(?P<high>\d*)\}})\??)
    | (?P<anchor>[\^$])
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
).finditer
_members = re.compile(rf"{_ESCAPE}|.", re.DOTALL).findall

LOOK_AROUND = ("(?=", "(?!", "(?<=", "(?<!")
ASSERTIONS = ("\\b", "\\B")


class NotRegex(Exception):
    """The text is no regular expression in JavaScript either."""


class Unsupported(Exception):
    """The text is a regular expression of a kind that is refused."""


def to_re2(text: str) -> str:
    """Return the JavaScript regular expression *text* as RE2 writes it.

    Surrogates stand for the character that a pair of them encodes.  No group captures.

    Raises:
        NotRegex: JavaScript would throw a SyntaxError.
        Unsupported: it looks around, refers back, or repeats without limit what
            is repeated without limit within, such as ``(a+)+``.
    """
    return _Translation().of(text)


class _Translation:
    """One reading of a pattern from the left to the right.

    Attributes:
        made: what is written so far.
        repeatable: whether a quantifier may come next.
        endless: for each open group, the outermost first, whether it holds a
            repetition without limit.
        closed_endless: that of the group which has just been closed.
    """

    def __init__(self) -> None:
        self.made: list[str] = []
        self.repeatable = False
        self.endless = [False]
        self.closed_endless = False

    def of(self, text: str) -> str:
        """Return *text* as RE2 writes it; once."""
        for token in _tokens(text):
            kind = token.lastgroup
            closed, self.closed_endless = self.closed_endless, False
            if kind == "repeat":
                self._repeat(token, closed)
            elif kind == "open":
                self._open(token[0])
            elif kind == "close":
                self._close()
            else:
                self._one(str(kind), token[0])
        if len(self.endless) > 1:
            raise NotRegex("unterminated group")
        return "".join(self.made)

    def _one(self, kind: str, token: str) -> None:
        """Write a character, a class, an assertion or a ``|``."""
        self.repeatable = kind != "anchor" and token != "|" and token not in ASSERTIONS
        if kind == "set":
            self.made.append(_class(token))
        elif kind == "escape":
            self.made.append(_escape(token))
        elif token in ("[", "\\"):
            raise NotRegex("unterminated class or escape")
        elif token == ".":
            self.made.append(ANY)
        else:
            self.made.append(r"\{" if token == "{" else token)

    def _open(self, token: str) -> None:
        if token in LOOK_AROUND:
            raise Unsupported("look-around")
        if token == "(?":
            raise NotRegex("invalid group")
        self.made.append("(?:")
        self.endless.append(False)
        self.repeatable = False

    def _close(self) -> None:
        if len(self.endless) == 1:
            raise NotRegex("unmatched )")
        self.closed_endless = self.endless.pop()
        self.endless[-1] |= self.closed_endless
        self.made.append(")")
        self.repeatable = True

    def _repeat(self, token: re.Match[str], group_is_endless: bool) -> None:
        if not self.repeatable:
            raise NotRegex("nothing to repeat")
        self.repeatable = False
        low, high = token["low"], token["high"]
        if low is not None:
            if max(len(low), len(high)) > MAX_COUNT_DIGITS:
                raise Unsupported("too many repeats")
            if high and int(high) < int(low):
                raise NotRegex("the numbers of a repetition are out of order")
        if token[0][0] in "*+" or (token["comma"] and not high):
            if group_is_endless:
                raise Unsupported("a repetition is repeated")
            self.endless[-1] = True
        self.made.append(token[0])


def _class(token: str) -> str:
    """Return the character class *token*, such as ``[^a-z]``."""
    negated = token.startswith("[^")
    members = _members(token[1 + negated : -1])
    if not members:
        return f"[{EVERY}]" if negated else f"[^{EVERY}]"
    made = [_member(members, index) for index in range(len(members))]
    return f"[{'^' if negated else ''}{''.join(made)}]"


def _member(members: list[str], index: int) -> str:
    member = members[index]
    if member == "-":
        # "[\w-x]": beside a class of its own it is no range, but a hyphen.
        beside = members[max(index - 1, 0) : index + 2]
        return r"\-" if any(one[0] == "\\" and one[1:] in "dDwWsS" for one in beside) else "-"
    if member == "\\b":
        return r"\x{8}"
    if member == "\\B":
        raise Unsupported("\\B in a class")
    if member in ("\\s", "\\S"):
        return SPACE if member == "\\s" else NOT_SPACE
    return _escape(member) if member[0] == "\\" else rf"\{member}" if member in "[^" else member


def _escape(token: str) -> str:
    """Return the escape *token*, a backslash and at least one character."""
    char = token[1]
    if len(token) > 2:
        return rf"\x{{{_code_point(token):x}}}"
    if char in "dDwWtnvfrbB":
        return token
    if char in "sS":
        return f"[{'^' if char == 'S' else ''}{SPACE}]"
    if char in "123456789kpP":
        raise Unsupported(token)
    # "IdentityEscape": the character itself, whatever RE2 may mean by its escape.
    return rf"\x{{{0 if char == '0' else ord(char):x}}}"


def _code_point(token: str) -> int:
    r"""Return what ``\xHH``, ``\uHHHH``, a pair of the latter or ``\cX`` stands for."""
    if token[1] == "c":
        return ord(token[2]) % 32
    first, *second = (int(part, 16) for part in re.split(r"\\[xu]", token)[1:])
    if second:
        return 0x10000 + ((first - 0xD800) << 10) + second[0] - 0xDC00
    if 0xD800 <= first <= 0xDFFF:
        raise Unsupported("a lone surrogate")  # no key holds a lone surrogate
    return first
