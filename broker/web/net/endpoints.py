"""Endpoint strings: what they mean, and what is wrong with one, found without listening."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred, execute
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    _parse,
    serverFromString,
)
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.web.net.socket_file import group_id

if TYPE_CHECKING:
    from broker.web.net.certificates import ServerCertificates

MAX_PORT = 65535
MAX_UNIX_PATH = 107  # bytes: what the kernel has for one, but for the byte behind it
MAX_MODE = 0o777
NO_NUMBER = re.compile(r"invalid literal for int\(\) with base \d+: ")
FORM = "a word is missing, unknown or too many; several endpoints are separated by ';'"
PROXIED = "haproxy:"  # before another endpoint: its connections begin with a header of the PROXY protocol
NOT_INHERITED = (
    "systemd has handed no such socket to this process: is it started by the socket unit, and by systemd itself?"
)

ANYWHERE, ANYWHERE_6 = {"", "0.0.0.0"}, {"::"}

Place = tuple[str, int]  # the address and the port; of a unix socket its path and 0


@attrs.frozen
class ParsedEndpoint:
    """What an endpoint string says.

    Attributes:
        endpoint: where connections come from.
        proxied: whether they begin with a header of the PROXY protocol.
        over_tcp: whether they are of TCP, and bare: what ``TXBROKER_TLS_CERTIFICATE_FILE`` is for.
        certificates: those that an endpoint of TLS names itself, or None.
    """

    endpoint: IStreamServerEndpoint
    proxied: bool = False
    over_tcp: bool = False
    certificates: ServerCertificates | None = None


@implementer(IStreamServerEndpoint)
@attrs.frozen
class SocketFileEndpoint:
    """A ``unix:`` endpoint; see ``SocketFilePort``."""

    reactor: Any
    path: str
    backlog: int
    mode: int
    group: str

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """See ``IStreamServerEndpoint``."""
        return execute(
            self.reactor.listenUNIX, self.path, factory, backlog=self.backlog, mode=self.mode, group=self.group
        )


# Of those that plugins bring, and of inherited sockets, nothing can be asked without using them.
CHECKED = (TCP4ServerEndpoint, TCP6ServerEndpoint, SocketFileEndpoint)


def parse_endpoint(reactor: Any, text: str) -> ParsedEndpoint:
    """Return what the endpoint string *text* says.

    Raises:
        ValueError: it is none, or needs a file that can not be used; says why.
    """
    proxied = text.startswith(PROXIED)
    bare = text.removeprefix(PROXIED)
    kind = bare.partition(":")[0].lower()
    try:
        if kind in OWN:
            arguments, named = _parse(bare)
            parsed = OWN[kind](reactor, *arguments[1:], **named)
        else:
            inherited_tcp = kind == "systemd" and "domain=UNIX" not in bare
            parsed = ParsedEndpoint(serverFromString(reactor, bare), over_tcp=kind in ("tcp", "tcp6") or inherited_tcp)
    except ModuleNotFoundError as error:
        raise ValueError(f"TLS needs {error.name}: pip install txbroker[tls]") from None
    except (TypeError, LookupError, AttributeError) as error:
        is_inherited = kind == "systemd" and isinstance(error, LookupError)
        raise ValueError(NOT_INHERITED if is_inherited else FORM) from None
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from None
    except Exception as error:  # a parser may be a plugin
        raise ValueError(_words(error)) from None
    return attrs.evolve(parsed, proxied=proxied)


def _parse_unix(
    reactor: Any, address: str, mode: str = "666", backlog: str = "50", lockfile: str = "0", group: str = ""
) -> ParsedEndpoint:
    """*lockfile* is what Twisted's own has; there is no need for one."""
    int(lockfile)
    return ParsedEndpoint(SocketFileEndpoint(reactor, address, int(backlog), int(mode, 8), group))


def _parse_ssl(
    reactor: Any,
    port: str,
    privateKey: str = "server.pem",
    certKey: str = "",
    sslmethod: str = "TLS_SERVER_METHOD",
    interface: str = "",
    backlog: str = "50",
    extraCertChain: str = "",
    dhParameters: str = "",
) -> ParsedEndpoint:
    # OpenSSL is loaded where it is used only.
    from broker.web.net.certificates import CertificateFiles, ServerCertificates, TLSOptions

    certificates = ServerCertificates(
        [CertificateFiles(certKey or privateKey, privateKey, extraCertChain)], TLSOptions(sslmethod, dhParameters)
    )
    endpoint = TCP4ServerEndpoint(reactor, int(port), int(backlog), interface)
    return ParsedEndpoint(endpoint, certificates=certificates)


OWN: dict[str, Callable[..., ParsedEndpoint]] = {"unix": _parse_unix, "ssl": _parse_ssl}


def check_endpoint(text: str) -> Place | None:
    """Return where the endpoint string *text* will listen; None where that can not be known, or is chosen then.

    Raises:
        ValueError: it can not be listened on; says why.
    """
    check = EndpointCheck()
    endpoint = parse_endpoint(check, text).endpoint
    if not isinstance(endpoint, CHECKED):
        return None
    failures: list[Failure] = []
    endpoint.listen(Factory()).addErrback(failures.append)
    if failures:
        raise ValueError(_words(failures[0].value))
    return check.place


def own_certificates(text: str) -> ServerCertificates | None:
    """Return the certificates that the endpoint string *text* names itself; None: it names none, or can not be used."""
    if not text.removeprefix(PROXIED).lower().startswith("ssl:"):
        return None
    try:
        return parse_endpoint(EndpointCheck(), text).certificates
    except ValueError:
        return None


def inherited_descriptor(text: str) -> int | None:
    """Return the descriptor of the socket that the endpoint string *text* names, from systemd; None: it names none.

    Raises:
        ValueError: it is no endpoint.
    """
    endpoint = parse_endpoint(EndpointCheck(), text).endpoint
    return int(endpoint.fileno) if isinstance(endpoint, AdoptedStreamServerEndpoint) else None


def can_be_shared(text: str) -> bool:
    """Whether several processes can listen where the endpoint string *text* says, which is one.

    What a plugin brings listens in a way of its own.
    """
    endpoint = parse_endpoint(EndpointCheck(), text).endpoint
    return isinstance(endpoint, (*CHECKED, AdoptedStreamServerEndpoint))


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

    def listenUNIX(self, address: str, factory: object, backlog: int, mode: int, group: str) -> None:
        """Check the path of a unix socket, its mode and its group."""
        if not address:
            raise ValueError("the path of a unix socket is missing")  # the system would make up a name for it
        if not 0 <= mode <= MAX_MODE:
            raise ValueError(f"{mode:o} is no mode of a socket, which is one up to {MAX_MODE:o}")
        if group:
            group_id(group)
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


def _words(error: BaseException | None) -> str:
    said = str(error).partition("\n")[0]
    if NO_NUMBER.match(said):
        return f"{NO_NUMBER.sub('', said)} is no integer"
    return said or type(error).__name__
