"""TLS of the public port: certificates with their whole chains, by the name that a client asks for.

Twisted's own ``ssl:`` sends the first certificate of a file only, and ends the handshake of each client that offers
protocols by ALPN, as browsers, curl and Node do, when the factory behind it names none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLContextFactory, IOpenSSLServerConnectionCreator
from zope.interface import implementer

T = TypeVar("T")

PROTOCOLS = (b"http/1.1", b"http/1.0")  # RFC 7301, 6: the first that a client offers, in this order
METHODS = ("TLS_METHOD", "TLS_SERVER_METHOD", "TLSv1_2_METHOD", "SSLv23_METHOD")  # the last is the first's old name
CERTIFICATES = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
PRIVATE_KEY = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)
# Forward secrecy for those of TLS 1.2; those of TLS 1.3 are all fine.
CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES256:ECDHE+AES128:DHE+AESGCM:DHE+CHACHA20:!aNULL:!MD5:!DSS"
RELEASE_BUFFERS = 0x10  # SSL_MODE_RELEASE_BUFFERS: 34 KiB less for each connection that is idle


@attrs.frozen
class CertificateFiles:
    """Where a certificate is, all in PEM.

    Attributes:
        certificate: path of the certificate, with the others of its chain behind it, as ``fullchain.pem`` of ACME
            clients is.
        key: path of its private key, which may be the same file.
        chain: path of more certificates of the chain; "" for none.
    """

    certificate: str
    key: str
    chain: str = ""


@attrs.frozen
class TLSOptions:
    """What an endpoint string may say besides.

    Attributes:
        method: the name of a method of OpenSSL, one of :data:`METHODS`.
        dh_parameters: path of parameters for Diffie-Hellman key exchange; "" for none.
    """

    method: str = "TLS_SERVER_METHOD"
    dh_parameters: str = ""


@attrs.frozen
class Loaded:
    """Contexts as they were read from their files.

    Attributes:
        contents: of all files, to know whether they are different.
        contexts: one for each certificate.
        by_name: the first of each name, in lower case; "*.x" for all that are one label longer than "x".
    """

    contents: tuple[bytes, ...]
    contexts: tuple[SSL.Context, ...]
    by_name: dict[str, SSL.Context]

    def context_for(self, name: str) -> SSL.Context:
        """Return the context for *name*, which a client asks for; the first when no certificate has it."""
        name = name.lower().rstrip(".")
        found = self.by_name.get(name) or self.by_name.get("*." + name.partition(".")[2])
        return found or self.contexts[0]


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLContextFactory)
class ServerCertificates:
    """The certificates of an endpoint; connections that begin get those that were last put into use.

    Args:
        files: one or more; clients that ask for none of their names get the first.
        options: see :class:`TLSOptions`.

    Raises:
        ValueError: one of the files can not be used; says which, and why.
    """

    def __init__(self, files: Sequence[CertificateFiles], options: TLSOptions | None = None) -> None:
        self.files = tuple(files)
        self._options = options or TLSOptions()
        self._loaded = self.load(self.files)

    def load(self, files: Sequence[CertificateFiles]) -> Loaded:
        """Return what *files* have now, without putting it into use.

        Raises:
            ValueError: some of them can not be used; says which, and why.
        """
        contents: list[bytes] = []
        contexts: list[SSL.Context] = []
        by_name: dict[str, SSL.Context] = {}
        problems: list[str] = []
        for one in files:
            try:
                chain, context = self._context(one, contents)
            except ValueError as error:
                problems.append(str(error))
                continue
            contexts.append(context)
            for name in _names_of(chain[0]):
                by_name.setdefault(name, context)
        if problems:
            raise ValueError("; ".join(problems))
        return Loaded(tuple(contents), tuple(contexts), by_name)

    def use(self, files: Sequence[CertificateFiles], loaded: Loaded) -> None:
        """Put *loaded*, which was read from *files*, into use for connections that begin from now on."""
        self.files, self._loaded = tuple(files), loaded

    def differs(self, loaded: Loaded) -> bool:
        """Whether *loaded* has other contents than what is in use."""
        return loaded.contents != self._loaded.contents

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """See ``IOpenSSLServerConnectionCreator``."""
        return SSL.Connection(self._loaded.contexts[0], None)

    def getContext(self) -> SSL.Context:
        """See ``IOpenSSLContextFactory``, which Twisted's ``listenSSL`` asks for."""
        return self._loaded.contexts[0]

    def _context(self, files: CertificateFiles, contents: list[bytes]) -> tuple[list[x509.Certificate], SSL.Context]:
        """Return the certificates of *files*, that of the server first, and a context with them."""
        chain, key = _parsed(files, contents)
        context = self._empty_context()
        try:
            context.use_certificate(chain[0])
            for one in chain[1:]:
                context.add_extra_chain_cert(one)
            context.use_privatekey(key)
            context.check_privatekey()
        except SSL.Error:
            raise ValueError(f"{files.key} is not the private key of {files.certificate}") from None
        return chain, context

    def _empty_context(self) -> SSL.Context:
        options = self._options
        if options.method not in METHODS:
            raise ValueError(f"{options.method} is none of {', '.join(METHODS)}: TLS is of version 1.2 or later")
        context = SSL.Context(getattr(SSL, options.method))
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_RENEGOTIATION)
        context.set_mode(RELEASE_BUFFERS)
        # Tickets let clients come back without another signature; what the server would keep for them is not kept.
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_session_id(b"txbroker")
        context.set_cipher_list(CIPHERS)
        if options.dh_parameters:
            try:
                context.load_tmp_dh(options.dh_parameters)
            except SSL.Error:
                raise ValueError(f"{options.dh_parameters} has no parameters for Diffie-Hellman") from None
        context.set_alpn_select_callback(select_protocol)
        context.set_tlsext_servername_callback(self._choose)
        return context

    def _choose(self, connection: SSL.Connection) -> None:
        name = connection.get_servername()
        if name is not None:
            connection.set_context(self._loaded.context_for(name.decode("ascii", "replace")))


def select_protocol(connection: SSL.Connection, offered: Iterable[bytes]) -> Any:
    """Return which of the protocols *offered* by ALPN is spoken.

    One who offers none of them is served as if nothing was offered, as by a server that does not know ALPN.
    """
    known = set(offered)
    return next((one for one in PROTOCOLS if one in known), SSL.NO_OVERLAPPING_PROTOCOLS)


def _parsed(files: CertificateFiles, contents: list[bytes]) -> tuple[list[x509.Certificate], Any]:
    """Return the certificates of *files*, that of the server first, and its key.

    Raises:
        ValueError: some of them can not be used; says which, and why.
    """
    problems: list[str] = []

    def parsed(path: str, parse: Callable[[str, bytes], T]) -> T | None:
        try:
            return parse(path, _read(path, contents))
        except ValueError as error:
            problems.append(str(error))
            return None

    chain, key = parsed(files.certificate, _certificates) or [], parsed(files.key, _private_key)
    known = set(chain)
    more = parsed(files.chain, _certificates) if files.chain else None
    if problems:
        raise ValueError("; ".join(dict.fromkeys(problems)))
    return chain + [one for one in more or () if one not in known], key


def _read(path: str, contents: list[bytes]) -> bytes:
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    contents.append(text)
    return text


def _certificates(path: str, text: bytes) -> list[x509.Certificate]:
    """Return the certificates in *text*, of the file at *path*, in their order."""
    try:
        found = [x509.load_pem_x509_certificate(one) for one in CERTIFICATES.findall(text)]
    except ValueError:
        raise ValueError(f"{path} has a certificate that is no PEM") from None
    if not found:
        raise ValueError(f"{path} has no certificate in PEM")
    return found


def _private_key(path: str, text: bytes) -> Any:
    found = PRIVATE_KEY.search(text)
    if found is None:
        raise ValueError(f"{path} has no private key in PEM")
    try:
        return load_pem_private_key(found[0], None)
    except TypeError:
        raise ValueError(f"the private key in {path} is encrypted: nobody can be asked for its password") from None
    except ValueError:
        raise ValueError(f"the private key in {path} can not be read") from None


def _names_of(certificate: x509.Certificate) -> list[str]:
    """Return the names that *certificate* is for; without the extension for them, its common name."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return [str(one.value).lower() for one in common]
    return [name.lower() for name in extension.value.get_values_for_type(x509.DNSName)]
