"""Endpoint strings: what they mean, and what is wrong with one, found without listening."""

from __future__ import annotations

import os
import re
import stat
from typing import Any

from twisted.internet.endpoints import (
    SSL4ServerEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXServerEndpoint,
    serverFromString,
)
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

MAX_PORT = 65535
MAX_UNIX_PATH = 107  # bytes: what the kernel has for one, but for the byte behind it
NO_NUMBER = re.compile(r"invalid literal for int\(\) with base \d+: ")
FORM = "a word is missing, unknown or too many; several endpoints are separated by ';'"
NOT_INHERITED = (
    "systemd has handed no such socket to this process: is it started by the socket unit, and by systemd itself?"
)
# Of those that plugins bring, and of inherited sockets, nothing can be asked without using them.
CHECKED = (TCP4ServerEndpoint, TCP6ServerEndpoint, SSL4ServerEndpoint, UNIXServerEndpoint)

ANYWHERE, ANYWHERE_6 = {"", "0.0.0.0"}, {"::"}

Place = tuple[str, int]  # the address and the port; of a unix socket its path and 0


def parse_endpoint(reactor: Any, text: str) -> IStreamServerEndpoint:
    """Return the endpoint that *text* describes.

    Raises:
        ValueError: it is none, or needs a file that can not be used; says why.
    """
    try:
        return serverFromString(reactor, text)  # type: ignore[no-any-return]
    except (TypeError, LookupError, AttributeError) as error:
        is_inherited = "systemd:" in text and isinstance(error, LookupError)
        raise ValueError(NOT_INHERITED if is_inherited else FORM) from None
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from None
    except Exception as error:  # a parser may be a plugin, and OpenSSL has errors of its own
        raise ValueError(_words(text, error)) from None


def check_endpoint(text: str) -> Place | None:
    """Return where the endpoint string *text* will listen; None where that can not be known, or is chosen then.

    Raises:
        ValueError: it can not be listened on; says why.
    """
    check = EndpointCheck()
    endpoint: Any = parse_endpoint(check, text)
    endpoint = getattr(endpoint, "_wrappedEndpoint", endpoint)  # of "haproxy:"
    if not isinstance(endpoint, CHECKED):
        return None
    failures: list[Failure] = []
    endpoint.listen(Factory()).addErrback(failures.append)
    if failures:
        raise ValueError(_words(text, failures[0].value))
    return check.place


def overlap(one: Place, other: Place) -> bool:
    """Whether nobody can listen on both; of an IPv4 and an IPv6 address the system decides."""
    if one == other:
        return True
    anywhere = ANYWHERE_6 if ":" in one[0] else ANYWHERE
    return one[1] == other[1] > 0 and (":" in one[0]) == (":" in other[0]) and bool({one[0], other[0]} & anywhere)


class EndpointCheck:
    """What endpoints take for the reactor: it says what is wrong with where they would listen, and opens nothing.

    Attributes:
        place: where that is.
    """

    def __init__(self) -> None:
        self.place: Place | None = None

    def listenTCP(self, port: int, factory: object, backlog: int = 50, interface: str = "") -> None:
        """Check a port."""
        if not 0 <= port <= MAX_PORT:
            raise ValueError(f"{port} is no port, which is a number up to {MAX_PORT}")
        if port:
            self.place = interface, port

    def listenSSL(
        self, port: int, factory: object, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> None:
        """Check a port, and that its certificate has that key."""
        self.listenTCP(port, factory, backlog, interface)
        contextFactory.getContext()

    def listenUNIX(self, address: str, factory: object, **options: object) -> None:
        """Check the path of a unix socket."""
        if len(os.fsencode(address)) > MAX_UNIX_PATH:
            raise ValueError(f"the path of a unix socket has at most {MAX_UNIX_PATH} bytes")
        directory = os.path.dirname(address) or "."
        if not os.path.isdir(directory):
            raise ValueError(f"there is no directory {directory}")
        if not os.access(directory, os.W_OK | os.X_OK):
            raise ValueError(f"in the directory {directory} nothing can be made")
        if os.path.exists(address) and not stat.S_ISSOCK(os.stat(address).st_mode):
            raise ValueError(f"{address} is there already, and no socket")
        self.place = os.path.realpath(address), 0


def _words(text: str, error: BaseException | None) -> str:
    said = str(error).partition("\n")[0]
    if NO_NUMBER.match(said):
        return f"{NO_NUMBER.sub('', said)} is no integer"
    if text.startswith("ssl:") and not said.endswith(f"up to {MAX_PORT}"):
        return "its certificate or private key is no PEM, or they do not belong together"
    return said or type(error).__name__
