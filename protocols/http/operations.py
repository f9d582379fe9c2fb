"""What a request may be: method, path and parameters, from which requests are told apart and described."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from broker.errors import Invalid
from broker.interfaces import Coro, IPeer
from broker.messages import HttpRequest, Response
from protocols.http.requests import JSON, NoQuery, Strict

NAMES = re.compile(r"\{(\w+)\}")
NEVER_EMPTY = ("if-match", "if-none-match", "idempotency-key")


@attrs.define(eq=False)
class Call:
    """One request on its way to its operation.

    Attributes:
        peer: the client.
        request: as it came.
        names: of the path, decoded, in their order.
        query: what the query says, of the operation's type.
    """

    peer: IPeer
    request: HttpRequest
    names: Sequence[str]
    query: Any

    @property
    def name(self) -> str:
        """The first name of the path."""
        return self.names[0]

    def header(self, name: str) -> str:
        """Return a header field by its lower-case name, or "".

        Raises:
            Invalid: it is a condition or a key, and is there without a value.
        """
        value = self.request.headers.get(name, "")
        if not value and name in NEVER_EMPTY and name in self.request.headers:
            raise Invalid(name, message=f"{name} has no value")
        return value


@attrs.frozen
class Operation:
    """One thing that clients may ask for.

    Attributes:
        method: GET, PUT, PATCH, POST or DELETE; a GET is also what answers HEAD.
        path: below ``/v1``, with ``{name}`` for each name that it holds.
        summary: one sentence.
        run: does it.
        query: what its query may have.
        headers: request fields that mean something for it.
        body: the type of its JSON body; Any: any value; None: it has none.
        results: the statuses that it answers with, each with what that means.
        result: the type of what it answers with; Any: any value.
        media: the media types of that.
        body_media: those of *body*.
        body_needed: whether it must be there.
        errors: statuses of its refusals besides those that all have.
        stream: answers ``Accept: text/event-stream`` instead; ``stream_query``: what its query may have then.
        stream_headers: as *headers*, for that.
        only_stream: whether there is no other answer.
        open: whether it needs no credential.
        names: what the path names.
    """

    method: str
    path: str
    summary: str
    run: Callable[[Call], Coro[Response]]
    query: type[Strict] = NoQuery
    headers: tuple[str, ...] = ()
    body: Any = None
    results: dict[int, str] = attrs.field(factory=lambda: {200: "Done."})
    result: Any = Any
    media: tuple[str, ...] = (JSON,)
    body_media: tuple[str, ...] = (JSON,)
    body_needed: bool = False
    errors: tuple[int, ...] = ()
    stream: Callable[[Call], Coro[Response]] | None = None
    stream_query: type[Strict] = NoQuery
    only_stream: bool = False
    open: bool = False
    names: tuple[str, ...] = attrs.field(init=False)

    @names.default
    def _names_of_path(self) -> tuple[str, ...]:
        return tuple(NAMES.findall(self.path))


class Table:
    """Finds the operations of a path."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = operations
        self._paths: dict[tuple[str, ...], dict[str, Operation]] = {}
        for operation in operations:
            parts = tuple("" if part[0] == "{" else part for part in operation.path.strip("/").split("/"))
            methods = self._paths.setdefault(parts, {})
            methods[operation.method] = operation
            if operation.method == "GET":
                methods["HEAD"] = operation
        self._by_length: dict[int, list[tuple[str, ...]]] = {}
        for parts in sorted(self._paths, key=lambda parts: parts.count("")):  # those with fewer names first
            self._by_length.setdefault(len(parts), []).append(parts)

    def find(self, path: str) -> tuple[dict[str, Operation], list[str]]:
        """Return the operations of *path*, below ``/v1/``, by method, and the names in it, encoded; none: neither."""
        given = path.split("/")
        for parts in self._by_length.get(len(given), ()):
            if all(part in ("", each) and (part or each) for part, each in zip(parts, given, strict=True)):
                names = [each for part, each in zip(parts, given, strict=True) if not part]
                return self._paths[parts], names
        return {}, []
