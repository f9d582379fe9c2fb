"""TLS of the public port: certificates with their whole chains, by the name that a client asks for.

Twisted's own ``ssl:`` sends the first certificate of a file only, and ends the handshake of each client that offers
protocols by ALPN, as browsers, curl and Node do, when the factory behind it names none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs
from cryptography import x509
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLContextFactory, IOpenSSLServerConnectionCreator
from zope.interface import implementer

from broker.web.net.pem import CertificateError, CertificateFiles, Fault, Pem, read_pem, strength_of

__all__ = ["CertificateError", "CertificateFiles", "ServerCertificates", "TLSOptions"]

PROTOCOLS = (b"http/1.1", b"http/1.0")  # RFC 7301, 6: the first that a client offers, in this order
METHODS = ("TLS_METHOD", "TLS_SERVER_METHOD", "TLSv1_2_METHOD", "SSLv23_METHOD")  # the last is the first's old name
# Forward secrecy for those of TLS 1.2; those of TLS 1.3 are all fine.
CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES256:ECDHE+AES128:DHE+AESGCM:DHE+CHACHA20:!aNULL:!MD5:!DSS"
TOO_WEAK = {
    "ee key too small": "the key of the certificate is too weak, clients would refuse it",
    "ca key too small": "the key of a certificate of the chain is too weak, clients would refuse it",
    "ca md too weak": "a certificate of the chain is signed with a hash that is too weak, clients would refuse it",
    "ee md too weak": "the certificate is signed with a hash that is too weak, clients would refuse it",
}
RELEASE_BUFFERS = 0x10  # SSL_MODE_RELEASE_BUFFERS: 34 KiB less for each connection that is idle


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
        read: what the files had.
    """

    contents: tuple[bytes, ...]
    contexts: tuple[SSL.Context, ...]
    by_name: dict[str, SSL.Context]
    read: tuple[Pem, ...]

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
            CertificateError: some of them can not be used; says which, and why.
        """
        read: list[Pem] = []
        contexts: list[SSL.Context] = []
        by_name: dict[str, SSL.Context] = {}
        faults: list[Fault] = []
        for one in files:
            try:
                pem = read_pem(one)
                context = self._context(pem)
            except CertificateError as error:
                faults += error.faults
                continue
            read.append(pem)
            contexts.append(context)
            for name in _names_of(pem.chain[0]):
                by_name.setdefault(name, context)
        if faults:
            raise CertificateError(faults)
        contents = tuple(text for pem in read for text in pem.contents)
        return Loaded(contents, tuple(contexts), by_name, tuple(read))

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

    def notes(self, now: float) -> Iterator[str]:
        """Yield a sentence for each certificate in use that clients refuse *now*, in seconds since the epoch."""
        for pem in self._loaded.read:
            yield from pem.notes(now)

    def _context(self, pem: Pem) -> SSL.Context:
        """Return a context with the certificates and the key of *pem*."""
        context = self._empty_context()
        files = pem.files
        role, path, subject = "certificate", files.certificate, pem.chain[0]
        try:
            context.use_certificate(pem.chain[0])
            for subject in pem.chain[1:]:
                context.add_extra_chain_cert(subject)
            role, path, subject = "key", files.key, pem.chain[0]
            context.use_privatekey(pem.key)
            context.check_privatekey()
        except (SSL.Error, TypeError, ValueError) as error:
            reason = _reason_of(error)
            raise CertificateError([Fault(role, path, f"{path}: {reason} ({strength_of(subject)})")]) from None
        return context

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


def _reason_of(error: Exception) -> str:
    """Return why OpenSSL, whose *error* that is, can not use a certificate or a key."""
    reason = (
        next((str(one[-1]) for one in error.args[0] if one[-1]), "") if isinstance(error, SSL.Error) else str(error)
    )
    return TOO_WEAK.get(reason) or f"OpenSSL can not use it: {reason or 'it does not say why'}"


def select_protocol(connection: SSL.Connection, offered: Iterable[bytes]) -> Any:
    """Return which of the protocols *offered* by ALPN is spoken.

    One who offers none of them is served as if nothing was offered, as by a server that does not know ALPN.
    """
    known = set(offered)
    return next((one for one in PROTOCOLS if one in known), SSL.NO_OVERLAPPING_PROTOCOLS)


def _names_of(certificate: x509.Certificate) -> list[str]:
    """Return the names that *certificate* is for; without the extension for them, its common name."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return [str(one.value).lower() for one in common]
    return [name.lower() for name in extension.value.get_values_for_type(x509.DNSName)]
