"""Which dialect a request is for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

from broker.interfaces import IHttpDialect, IWebSocketDialect
from broker.messages import HttpRequest
from broker.web.extras import DialectExtras

D = TypeVar("D")

SLASHES = re.compile("//+")


class Paths(Generic[D]):
    """Paths and the dialects they belong to.

    "/x" is that path alone, "/x/" also everything below it, except that "/" is
    the root alone.  The longest one that fits decides.

    Attributes:
        exact: the dialect of each path that was added.

    Args:
        what: the word for such a path in an error.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self.exact: dict[str, D] = {}
        self._prefixes: list[tuple[str, D]] = []

    def add(self, path: str, dialect: D) -> None:
        """Let *dialect* have *path*.

        Raises:
            ValueError: it is no path, or another dialect has it.
        """
        if not path.startswith("/") or SLASHES.search(path) or "?" in path:
            raise ValueError(f"{_name(dialect)}: {path!r} is no {self._what} path")
        if path in self.exact:
            raise ValueError(f"{_name(self.exact[path])} and {_name(dialect)} both take the {self._what} path {path}")
        self.exact[path] = dialect
        if path.endswith("/") and path != "/":
            self._prefixes.append((path, dialect))
            self._prefixes.sort(key=lambda entry: -len(entry[0]))

    def find(self, path: str) -> D | None:
        """Return the dialect of *path*, or None."""
        dialect = self.exact.get(path)
        if dialect is None:
            for prefix, owner in self._prefixes:
                if path.startswith(prefix):
                    return owner
        return dialect


class Routes:
    """Finds the dialect of a request.

    Attributes:
        extras: what each dialect has besides its interface, by its name.
        http_paths: the HTTP dialect of each path that was claimed as it is: the first place to look.

    Args:
        dialects: providers of IWebSocketDialect, IHttpDialect or both.

    Raises:
        ValueError: two of them want the same path, name or subprotocol, or an
            extra attribute is of the wrong type.
    """

    def __init__(self, dialects: Iterable[Any]) -> None:
        self.dialects: Sequence[Any] = tuple(dialects)
        self.extras = {dialect.name: DialectExtras.of(dialect) for dialect in self.dialects}
        self._websocket: Paths[Any] = Paths("WebSocket")
        self._http: Paths[Any] = Paths("HTTP")
        self.http_paths = self._http.exact
        self._subprotocols: dict[str, Any] = {}
        names: dict[str, Any] = {}
        for dialect in self.dialects:
            if names.setdefault(dialect.name, dialect) is not dialect:
                raise ValueError(f"two dialects are named {dialect.name}")
            self._add(dialect)

    def _add(self, dialect: Any) -> None:
        if IWebSocketDialect.providedBy(dialect):
            for path in dialect.websocket_paths:
                self._websocket.add(path, dialect)
            for word in dialect.subprotocols:
                if self._subprotocols.setdefault(word, dialect) is not dialect:
                    raise ValueError(
                        f"{_name(self._subprotocols[word])} and {_name(dialect)} both take the subprotocol {word}"
                    )
        if IHttpDialect.providedBy(dialect):
            for path in dialect.http_paths:
                self._http.add(path, dialect)

    def http(self, request: HttpRequest) -> Any:
        """Return the HTTP dialect for *request*, or None.

        Doubled slashes in its path count as one where the path is not known as
        it is, and are then gone from the request: clients join a base that ends
        in a slash with a path that begins with one.
        """
        return self._find(self._http, request)

    def websocket(self, request: HttpRequest) -> tuple[Any, str]:
        """Return the WebSocket dialect for *request* or None, and the subprotocol to agree to or "".

        The path decides; where no dialect has it, the first subprotocol offered
        that a dialect knows.
        """
        offered = request.headers.get("sec-websocket-protocol", "")
        dialect = self._find(self._websocket, request)
        for word in offered.split(",") if offered else ():
            word = word.strip()
            named = self._subprotocols.get(word)
            if named is not None and dialect in (None, named):
                return named, word
        return dialect, ""

    def _find(self, paths: Paths[Any], request: HttpRequest) -> Any:
        dialect = paths.find(request.path)
        if dialect is None and "//" in request.path:
            path = SLASHES.sub("/", request.path)
            dialect = paths.find(path)
            if dialect is not None:
                request.path = path
        return dialect


def _name(dialect: Any) -> str:
    return str(getattr(dialect, "name", dialect))
