"""Whether there is a port, whether it speaks TLS or not, and whether a broker is behind it."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from typing import Any

import attrs

from broker.app.client.findings import Answer, Finding, refused
from broker.app.client.output import one_line
from broker.app.client.target import Target, trusted

MAX_BODY = 1 << 16  # bytes that are read of an answer
# X509_V_ERR_… of OpenSSL.
NOT_YET_VALID, EXPIRED, SELF_SIGNED, SELF_SIGNED_CHAIN, UNKNOWN_ISSUER, UNKNOWN_LEAF = 9, 10, 18, 19, 20, 21
OTHER_HOST, OTHER_ADDRESS = 62, 64
UNTRUSTED = (SELF_SIGNED, SELF_SIGNED_CHAIN, UNKNOWN_ISSUER, UNKNOWN_LEAF)
BLOCKED = re.compile(r"Not ready: (the reactor loop was blocked for [\d.]+ s)\.")  # ``ReactorLag`` says so
PLAIN_REMEDY = "use an http:// URL, or set TXBROKER_TLS_CERTIFICATE_FILE at the broker"
TLS_REMEDY = "use an https:// URL"


@attrs.frozen
class Reach:
    """The way to a broker.

    Attributes:
        target: the broker.
        timeout: seconds that one step may take.
        origin: of a web page that is pretended to ask, or "".
    """

    target: Target
    timeout: float
    origin: str = ""

    def check_port(self) -> Finding:
        """Say whether something listens there."""
        host, port = self.target.address
        try:
            with closing(self._connect()):
                return Finding("port", True, f"something listens at {one_line(host)}:{port}")
        except socket.gaierror as error:
            return Finding("port", False, f"there is no host {one_line(host)}: {error.strerror}", "correct the URL")
        except ConnectionRefusedError:
            remedy = f"start the broker, or let TXBROKER_LISTEN name port {port}, at an interface that is reached"
            return Finding("port", False, f"nothing listens at {one_line(host)}:{port}", remedy)
        except TimeoutError:
            text = f"{one_line(host)}:{port} has not answered within {self.timeout:g} s"
            return Finding("port", False, text, "look for a firewall, and at the interface of TXBROKER_LISTEN")
        except OSError as error:
            return Finding("port", False, f"{one_line(host)}:{port} is not reached: {error}", "look at the network")

    def check_tls(self) -> Finding:
        """Say whether it speaks TLS if it should, and whether its certificate is trusted."""
        return self._check_certificate() if self.target.secured else self._check_plain()

    def check_health(self) -> Finding:
        """Say whether a broker answers."""
        try:
            answer = self.ask("GET", "/health")
        except (OSError, HTTPException) as error:
            return Finding("broker", False, f"no answer: {error}", "is this the port of a txbroker?")
        if answer.status == 200 and _has(answer, "status", "ok"):
            return Finding("broker", True, "it answers")
        found = refused("broker", answer, shown=True, origin=self.origin)
        return attrs.evolve(found, remedy=found.remedy or "is this the port of a txbroker?")

    def check_ready(self) -> Finding:
        """Say whether it can do all its work."""
        answer = self.ask("GET", "/ready")
        if answer.status == 200:
            return Finding("ready", True, "it can do all its work")
        blocked = BLOCKED.fullmatch(answer.message)
        if blocked:
            remedy = "look at the load of its machine, and in its log for what has blocked it"
            return Finding("ready", None, f"it is slow: {blocked[1]}", remedy)
        remedy = "ask it why: txbroker status, or /ready of its admin port"
        return Finding("ready", False, f"it is not ready: {answer.message}", remedy)

    def dialects(self) -> list[str] | None:
        """Return the names of the dialects that it says it has; None: it does not say."""
        try:
            return [str(name) for name in self._about()["dialects"]]
        except (ValueError, LookupError, TypeError):
            return None

    def check_workers(self) -> Finding | None:
        """Say how many processes share the port; None: it is one."""
        try:
            about = self._about()
            worker, workers = int(about["worker"]), int(about["workers"])
        except (ValueError, LookupError, TypeError):
            return None
        return Finding("workers", None, f"{workers} processes share the port; number {worker} has answered")

    def _about(self) -> Any:
        return json.loads(self.ask("GET", "/about").body)

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None) -> Answer:
        """Return what *path* is answered with.

        Raises:
            OSError: it is not reached.
            HTTPException: the answer is none.
        """
        with closing(self.connection()) as connection:
            connection.request(method, self.target.prefix + path, body, self.headers(headers))
            response = connection.getresponse()
            text = response.read(MAX_BODY).decode("utf-8", "replace")
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, text)

    def connection(self) -> HTTPConnection:
        """Return a connection that is made.

        Raises:
            OSError: it can not be.
        """
        connection = HTTPConnection(*self.target.address, timeout=self.timeout)
        sock = self._connect()
        try:
            connection.sock = self._secure(sock) if self.target.secured else sock
        except OSError:
            sock.close()
            raise
        return connection

    def headers(self, more: dict[str, str] | None = None) -> dict[str, str]:
        """Return the headers of any request: ``Host``, ``Origin`` if there is one, and *more*."""
        origin = {"Origin": self.origin} if self.origin else {}
        return {"Host": self.target.split.netloc, **origin, **(more or {})}

    def _connect(self) -> socket.socket:
        return socket.create_connection(self.target.address, self.timeout)

    def _secure(self, sock: socket.socket) -> ssl.SSLSocket:
        return trusted(self.target.ca_file).wrap_socket(sock, server_hostname=self.target.address[0])

    def _check_certificate(self) -> Finding:
        host, _ = self.target.address
        try:
            with closing(self._connect()) as sock, closing(self._secure(sock)) as secured:
                return Finding("tls", True, f"{secured.version()}; the certificate is trusted")
        except ssl.SSLCertVerificationError as error:
            return _certificate_problem(error, one_line(host))
        except ssl.SSLError as error:
            if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
                return Finding("tls", False, "it speaks plain HTTP, and no TLS", PLAIN_REMEDY)
            return Finding("tls", False, f"TLS fails: {error.reason or error}", "it has to speak TLS 1.2 or later")
        except OSError as error:
            text = f"the connection ends before TLS begins: {error}"
            return Finding("tls", False, text, "is there a proxy, or a haproxy: endpoint, that expects another header?")

    def _check_plain(self) -> Finding:
        try:
            answer = self.ask("GET", "/health")
        except (OSError, HTTPException):
            if self._speaks_tls():
                return Finding("tls", False, "it speaks TLS, and no plain HTTP", TLS_REMEDY)
            return Finding("tls", None, "no TLS, and no answer over plain HTTP")
        if answer.status == 400 and "https" in answer.body.lower():  # as nginx says it
            return Finding("tls", False, f"it speaks TLS, and no plain HTTP: {answer.message}", TLS_REMEDY)
        return Finding("tls", None, "no TLS: everybody on the way can read the credential and all else")

    def _speaks_tls(self) -> bool:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent to it
        try:
            with closing(self._connect()) as sock, closing(context.wrap_socket(sock)):
                return True
        except OSError:
            return False


def _has(answer: Answer, name: str, value: str) -> bool:
    try:
        found = json.loads(answer.body)
    except ValueError:
        return False
    return isinstance(found, dict) and found.get(name) == value


def _certificate_problem(error: ssl.SSLCertVerificationError, host: str) -> Finding:
    code, words = error.verify_code, error.verify_message
    if code == EXPIRED:
        return Finding("tls", False, "the certificate has expired", "renew it, and send the broker SIGHUP")
    if code == NOT_YET_VALID:
        return Finding("tls", False, "the certificate is not valid yet", "look at the clocks of both machines")
    if code in (OTHER_HOST, OTHER_ADDRESS):
        remedy = "use a name in the URL that the certificate has, or get a certificate with this one"
        return Finding("tls", False, f"the certificate is not for {host}: {words}", remedy)
    if code in UNTRUSTED:
        remedy = (
            "trust it by --ca-file, or TXBROKER_CA_FILE; or let TXBROKER_TLS_CERTIFICATE_FILE have the whole chain "
            "(fullchain.pem)"
        )
        return Finding("tls", False, f"the certificate is not trusted: {words}", remedy)
    return Finding("tls", False, f"the certificate is refused: {words}", "look at the certificate")


def proxies_of_environment() -> list[str]:
    """Return the variables by which clients go through a proxy."""
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    return [name for name in names if os.environ.get(name)]
