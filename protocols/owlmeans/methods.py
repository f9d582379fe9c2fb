"""What a method is that the broker itself performs, such as ``broker.register``; ``reserved`` has all of them.

A client's ``perform``, ``observe`` and ``acknowledge`` are local and send nothing, so
that an ordinary call tells the broker.  Each method is a class: its fields are the arguments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

import msgspec

from broker.arrays import first_items, has_more_than
from broker.errors import Invalid, NotFound, TooLarge
from broker.patterns import RESERVED_PREFIX

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session

Answer: TypeAlias = dict[str, Any]
Names: TypeAlias = str | list[str]
Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]

MAX_NAMES = 1000  # names or patterns of one call, and names of one answer
MAX_NESTED = 10_000  # arrays and objects in the arguments of a method with options of any shape: a large one for each
MAX_OPTION_BYTES = 10_000  # of an object with options in the place of none, whose first name an error repeats
SHORT = 1 << 16  # bytes of arguments which are decoded soon, whatever they are
MAX_COMMAS = 20_000  # in one argument that is decoded

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """The options of a method: an object with these members and no others, each of which may be missing."""


class Method(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Arguments of a reserved method, in their order; ``called`` is its name behind ``broker.``.

    The first line of the docstring of each is what ``broker.methods`` says of it.  ``free_form``: whether its options
    hold values of any shape, all of which are decoded.  ``max_items``: how many items its first argument may have; 0:
    they are not counted.
    """

    called: ClassVar[str]
    free_form: ClassVar[bool] = False
    max_items: ClassVar[int] = 0

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
        self._decoded = {name: _decoded(method) for name, method in self.classes.items()}

    def read(self, name: str, body: bytes) -> Method:
        """Return the call of method *name* with the arguments *body*, a JSON array.

        Raises:
            NotFound: there is no such method.
            Invalid: an argument is missing, of a wrong type or one too many, or an option is not known.  Or there
            are more than ``MAX_NESTED`` arrays and objects where each would be decoded.
            TooLarge: an argument has very many items.
        """
        decode = self._decoders.get(name)
        if decode is None:
            raise NotFound("method", name)
        if self.classes[name].free_form and body.count(b"[") + body.count(b"{") > MAX_NESTED:
            raise Invalid("arguments")
        if len(body) > SHORT:
            self._check_items(name, body)
        try:
            return decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise _invalid(str(error), body, self.classes[name].__struct_fields__) from None

    def _check_items(self, name: str, body: bytes) -> None:
        """Check that the arguments *body* do not hold a hundred thousand things: all of them would be decoded first.

        Raises:
            TooLarge: they do.
            Invalid: they are no array that can be decoded.
        """
        fields, limit = self.classes[name].__struct_fields__, self.classes[name].max_items
        try:
            texts = first_items(body, len(fields))
        except Invalid:
            raise Invalid("arguments") from None
        for field, text in zip(fields, texts, strict=False):
            if limit and has_more_than(text, limit):
                raise TooLarge(field, message=f"there are more than {limit} {field}")
            if not limit and field in self._decoded[name] and text[:1] in b"[{" and text.count(b",") > MAX_COMMAS:
                raise TooLarge(field)


def _decoded(method: type[Method]) -> frozenset[str]:
    """Return the arguments of *method* that are not passed on as they are."""
    return frozenset(field.name for field in msgspec.structs.fields(method) if field.type is not msgspec.Raw)


def _invalid(problem: str, body: bytes, fields: tuple[str, ...]) -> Invalid:
    """Return the error for the arguments *body* of a method that has *fields*: it names the argument or the option."""
    surplus = _surplus(body, len(fields))
    if surplus:
        option = _first_member(surplus)
        return Invalid("options", option) if option else Invalid("arguments")
    if len(problem) > MAX_OPTION_BYTES:  # it repeats the name of an option
        return Invalid("options")
    unknown = re.match(r"Object contains unknown field `(.*)` - at `\$\[\d+\]", problem, re.DOTALL)
    if unknown:
        return Invalid("options", unknown[1])
    place = re.search(r"\$\[(\d+)\]", problem)
    return Invalid(fields[int(place[1])] if place else "arguments")


def _surplus(body: bytes, count: int) -> bytes:
    """Return the first argument behind *count* others, b"" for none."""
    try:
        return b"".join(first_items(body, count + 1)[count:])
    except Invalid:
        return b""


def _first_member(value: bytes) -> str:
    """Return the name of the first member of *value*, or "": it is no object, or an empty one, or a long one."""
    if len(value) > MAX_OPTION_BYTES:
        return ""
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
