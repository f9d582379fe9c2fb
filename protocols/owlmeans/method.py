"""A method that the broker itself performs: its arguments, and what it answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from broker.errors import Invalid, NotFound

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session

Answer = dict[str, Any]


class Method(msgspec.Struct, array_like=True):
    """Arguments of a reserved method, in their order."""

    called: ClassVar[str]

    async def run(self, session: Session) -> Answer:
        """Do it and return the payload of the result."""
        raise NotFound("method", self.called)

    def sent(self, session: Session) -> None:
        """Notice that the result is on its way."""


class Options(msgspec.Struct):
    """What may be given as the last argument, as an object."""


class Methods:
    """The reserved methods by name."""

    def __init__(self, *methods: type[Method]) -> None:
        self._decoders = {method.called: msgspec.json.Decoder(method).decode for method in methods}
        self._fields = {method.called: method.__struct_fields__ for method in methods}

    def read(self, name: str, body: bytes) -> Method:
        """Return the call of method *name* with the arguments *body*, a JSON array.

        Raises:
            NotFound: there is no such method.
            Invalid: an argument is missing or of a wrong type.
        """
        decode = self._decoders.get(name)
        if decode is None:
            raise NotFound("method", name)
        try:
            return decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            place = re.search(r"\$\[(\d+)\]", str(error))
            raise Invalid(self._fields[name][int(place[1])] if place else "arguments") from None
