"""A client of the admin port of a daemon, for the commands of operators."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

import attrs

TIMEOUT = 30.0  # seconds without an answer
SCHEMES = {"http": HTTPConnection, "https": HTTPSConnection}


class SocketFileConnection(HTTPConnection):
    """A connection to the unix socket at *path*."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class AdminError(Exception):
    """The admin port could not be asked, or has refused; the message says why, for the operator."""


@attrs.frozen
class AdminClient:
    """Asks an admin port, over neither proxies nor redirects, which would get to know the secret.

    Attributes:
        url: of the port, ``http://127.0.0.1:8001`` or ``unix:/run/txbroker/admin``.
        secret: what it asks for, or "".
    """

    url: str
    secret: str = attrs.field(default="", repr=False)

    def get(self, path: str, query: Mapping[str, object]) -> Any:
        """Return what the answer to *path* with *query* says.

        Raises:
            AdminError: there was no answer, or it says no.
        """
        return self._ask("GET", _target(path, query), None, {})

    def post(self, path: str, content: Any, query: Mapping[str, object] | None = None) -> Any:
        """Send *content* to *path* with *query* as JSON; return what the answer says.

        Raises:
            AdminError: there was no answer, or it says no.
        """
        headers: dict[str, str | bytes] = {"Content-Type": "application/json"}
        return self._ask("POST", _target(path, query or {}), json.dumps(content), headers)

    def _ask(self, method: str, path: str, body: str | None, headers: dict[str, str | bytes]) -> Any:
        if self.secret:
            if not self.secret.isprintable():  # the library would show it in its error
                raise AdminError("TXBROKER_ADMIN_SECRET has characters that can not be sent")
            headers["Authorization"] = f"Bearer {self.secret}".encode()
        status, text = self._exchange(method, path, body, headers)
        try:
            answer = json.loads(text)
            if status == 200:
                return answer
            why = answer["error"]["message"]
        except (ValueError, LookupError, TypeError):
            why = "is this the admin port of a txbroker?"
        raise AdminError(f"{self.url} has answered with {status}: {why}")

    def _exchange(self, method: str, path: str, body: str | None, headers: dict[str, str | bytes]) -> tuple[int, bytes]:
        connection, prefix = self._connection()
        try:
            connection.request(method, prefix + path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, HTTPException) as error:
            raise AdminError(f"{self.url} can not be asked: {error}") from None
        finally:
            connection.close()

    def _connection(self) -> tuple[HTTPConnection, str]:
        """Return a connection, not yet made, and what all paths begin with."""
        try:
            split = urlsplit(self.url)
            if split.scheme == "unix" and split.path and not split.netloc:
                return SocketFileConnection(unquote(split.path)), ""
            make = SCHEMES[split.scheme]
            return make(split.hostname or "", split.port, timeout=TIMEOUT), split.path.rstrip("/")
        except (KeyError, ValueError, HTTPException):
            raise AdminError(f"{self.url} is no URL of http or https, nor unix:/path") from None


def _target(path: str, query: Mapping[str, object]) -> str:
    return f"{path}?{urlencode(query)}" if query else path
