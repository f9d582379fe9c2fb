"""What a method is that the broker itself performs, such as ``broker.register``; ``reserved`` has all of them.

A client's ``perform``, ``observe`` and ``acknowledge`` are local and send nothing, so
that an ordinary call tells the broker.  Each method is a class: its fields are the arguments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

import msgspec

from broker.errors import Invalid, NotFound, TooLarge
from broker.patterns import RESERVED_PREFIX

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session

Answer: TypeAlias = dict[str, Any]
Names: TypeAlias = str | list[str]
Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]

MAX_NAMES = 1000  # names or patterns of one call, and names of one answer

_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """The options of a method: an object with these members and no others, each of which may be missing."""


class Method(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Arguments of a reserved method, in their order; ``called`` is its name behind ``broker.``.

    The first line of the docstring of each is what ``broker.methods`` says of it.
    """

    called: ClassVar[str]

    async def run(self, session: Session) -> Answer:
        """Do it and return the payload of the result."""
        raise NotImplementedError

    def sent(self, session: Session) -> None:
        """Notice that the result is on its way."""


class Methods:
    """Reserved methods by name.

    Attributes:
        classes: the method of each name.
    """

    def __init__(self, methods: Sequence[type[Method]]) -> None:
        self.classes = {RESERVED_PREFIX + method.called: method for method in methods}
        self._decoders = {name: msgspec.json.Decoder(method).decode for name, method in self.classes.items()}
        self.names = list(self.classes)

    def read(self, name: str, body: bytes) -> Method:
        """Return the call of method *name* with the arguments *body*, a JSON array.

        Raises:
            NotFound: there is no such method.
            Invalid: an argument is missing, of a wrong type or one too many, or an option is not known.
        """
        decode = self._decoders.get(name)
        if decode is None:
            raise NotFound("method", name)
        try:
            return decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _invalid(str(error), body, self.classes[name].__struct_fields__) from None


def _invalid(problem: str, body: bytes, fields: tuple[str, ...]) -> Invalid:
    """Return the error for the arguments *body* of a method that has *fields*: it names the argument or the option."""
    surplus = _surplus(body, len(fields))
    if surplus:
        option = _first_member(surplus[0])
        return Invalid("options", option) if option else Invalid("arguments")
    unknown = re.match(r"Object contains unknown field `(.*)` - at `\$\[\d+\]", problem, re.DOTALL)
    if unknown:
        return Invalid("options", unknown[1])
    place = re.search(r"\$\[(\d+)\]", problem)
    return Invalid(fields[int(place[1])] if place else "arguments")


def _surplus(body: bytes, count: int) -> list[msgspec.Raw]:
    """Return the arguments behind the first *count*."""
    try:
        return _items(body)[count:]
    except (msgspec.DecodeError, RecursionError):
        return []


def _first_member(value: msgspec.Raw) -> str:
    """Return the name of the first member of *value*, or "": it is no object, or an empty one."""
    try:
        return next(iter(_members(value)), "")
    except (msgspec.DecodeError, RecursionError):
        return ""


def distinct(names: Names) -> list[str]:
    """Return *names*, each once.

    Raises:
        TooLarge: there are more than ``MAX_NAMES``.
    """
    if isinstance(names, str):
        return [names]
    if len(names) > MAX_NAMES:
        raise TooLarge("names")
    return list(dict.fromkeys(names))
