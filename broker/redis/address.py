"""Where a Redis is: what a URL says, and how to connect to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from txredisapi import lazyConnection
from zope.interface import implementer

from broker.errors import Invalid
from broker.redis.discovery import DISCOVERY_TIMEOUT, Discovery, NoMaster

REDIS_PORT = 6379
SENTINEL_PORT = 26379
REDIS_CONNECT_TIMEOUT = 5.0  # seconds for one attempt to connect

SCHEMES = ("redis", "rediss", "redis+unix", "redis+sentinel", "rediss+sentinel")
FORMS = (
    "redis://[user:password@]host[:port][/db], rediss://… with TLS (?ca=/path/ca.pem for an authority of your own), "
    "redis+unix:///path/to.sock[?db=0], redis+sentinel://[user:password@]host[:port],host[:port]/master[/db]"
)


@attrs.frozen
class RedisAddress:
    """One Redis server, or the Sentinels that know it.

    Attributes:
        hosts: name and port of the server, or of each Sentinel.
        path: of a unix socket instead, or "".
        master: the name under which the Sentinels know the server; "" without Sentinels.
        db: the number of the database.
        user: the user of its access control list; "" is the default user.
        password: "" when none is needed.
        tls: whether to encrypt.
        ca: path of a PEM file with the authority that signs the server's certificate; "": those of the system.
    """

    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    master: str = ""
    db: int = 0
    user: str = ""
    password: str = attrs.field(default="", repr=False)
    tls: bool = False
    ca: str = ""

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Return the address that *url* says.

        Raises:
            Invalid: it has none of the known forms.  The message does not repeat it, for its password.
        """
        try:
            return _parsed(cls, _split(url))
        except ValueError as error:
            raise Invalid("redis", message=f"This is no URL of a Redis ({error}): write {FORMS}.") from None

    def __str__(self) -> str:
        """Return where it is, for people, without the password."""
        place = self.path or ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )
        if self.master:
            place = f"{self.master} of the Sentinels {place}"
        return place + (f", database {self.db}" if self.db else "")

    def endpoint(self, reactor: Any) -> IStreamClientEndpoint:
        """Return the endpoint that connects to the server."""
        if self.path:
            return UNIXClientEndpoint(reactor, self.path, timeout=REDIS_CONNECT_TIMEOUT)
        if self.master:
            return SentinelEndpoint(self, reactor)
        return self.reach(reactor, *self.hosts[0])

    def reach(self, reactor: Any, host: str, port: int) -> IStreamClientEndpoint:
        """Return the endpoint that connects to *host*."""
        endpoint = HostnameEndpoint(reactor, host, port, timeout=REDIS_CONNECT_TIMEOUT)
        return wrapClientTLS(self.tls_options(host), endpoint) if self.tls else endpoint

    def tls_options(self, host: str) -> Any:
        """Return the options that check the certificate of *host*."""
        # Imported here: it needs pyOpenSSL, which only TLS needs.
        from twisted.internet.ssl import optionsForClientTLS, trustRootFromCertificates

        if not self.ca:
            return optionsForClientTLS(host)
        return optionsForClientTLS(host, trustRoot=trustRootFromCertificates([self.authority()]))

    def check_authority(self) -> None:
        """Look at the file ``ca``, if there is one.

        Raises:
            Invalid: it is no certificate.
        """
        if self.ca:
            self.authority()

    def authority(self) -> Any:
        """Return the certificate in the file ``ca``.

        Raises:
            Invalid: there is none.
        """
        from twisted.internet.ssl import Certificate

        try:
            return Certificate.loadPEM(Path(self.ca).read_bytes())
        except OSError as error:
            reason = f"can not be read: {error.strerror}"
        except Exception:  # OpenSSL has errors of its own, which say nothing to an operator
            reason = "holds no certificate in PEM"
        raise Invalid("redis", message=f"The file that ca names, {self.ca}, {reason}.")


@implementer(IStreamClientEndpoint)
class SentinelEndpoint:
    """Looks the master up at the Sentinels at each attempt, and connects to that one."""

    def __init__(self, address: RedisAddress, reactor: Any) -> None:
        self._address, self._reactor = address, reactor

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect *protocolFactory* to the master."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        host, port = await self._master()
        try:
            return await self._address.reach(self._reactor, host, port).connect(factory)
        except ConnectError as error:
            raise NoMaster(f"the Sentinels name {host}:{port}, which can not be reached: {error}") from None

    async def _master(self) -> tuple[str, int]:
        address = self._address
        sentinels = [
            lazyConnection(
                host,
                port,
                connectTimeout=REDIS_CONNECT_TIMEOUT,
                replyTimeout=DISCOVERY_TIMEOUT,
                ssl_context_factory=address.tls_options(host) if address.tls else False,
            )
            for host, port in address.hosts
        ]
        try:
            return await Discovery(address.master).ask(sentinels, self._reactor)
        finally:
            for sentinel in sentinels:
                sentinel.disconnect().addErrback(lambda _: None)  # it is not needed any more


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # whose text may repeat a part of the password
        raise ValueError("its host can not be read") from None


def _parsed(cls: type[RedisAddress], url: SplitResult) -> RedisAddress:
    if url.scheme not in SCHEMES:
        raise ValueError("its scheme is unknown")
    credentials, _, hosts = url.netloc.rpartition("@")
    user, _, password = (unquote(part) for part in credentials.partition(":"))
    try:
        options = dict(parse_qsl(url.query, strict_parsing=bool(url.query)))
    except ValueError:  # whose text may repeat a part of the password
        raise ValueError("its parameters are not written name=value") from None
    common: dict[str, Any] = {
        "user": user,
        "password": password,
        "tls": url.scheme.startswith("rediss"),
        "ca": options.pop("ca", ""),
    }
    number = options.pop("db", "")
    if options:
        raise ValueError("it has an unknown parameter")
    if url.fragment:
        raise ValueError("it has a fragment: write # as %23")
    if common["ca"] and not common["tls"]:
        raise ValueError("ca is for rediss://, which alone uses TLS")
    if url.scheme == "redis+unix":
        if hosts or not url.path.strip("/"):
            raise ValueError("it names no path")
        return cls(path=unquote(url.path), db=_db(number), **common)
    words = [unquote(word) for word in url.path.strip("/").split("/") if word]
    if url.scheme.endswith("+sentinel"):
        if not words:
            raise ValueError("it names no master")
        places = tuple(_place(host, SENTINEL_PORT) for host in hosts.split(","))
        return cls(hosts=places, master=words[0], db=_db_of(words[1:], number), **common)
    return cls(hosts=(_place(hosts, REDIS_PORT),), db=_db_of(words, number), **common)


def _place(text: str, port: int) -> tuple[str, int]:
    if "," in text:
        raise ValueError("it names several hosts, which redis+sentinel:// alone may have")
    split = _split("//" + text)
    try:
        given = split.port
    except ValueError:  # whose text may repeat a part of the password
        given = 0
    if given == 0:
        raise ValueError("its port is no number from 1 to 65535")
    return split.hostname or "localhost", given or port


def _db_of(words: list[str], number: str) -> int:
    """Return the database that the path, as *words*, or the parameter *number* names."""
    if words and number:
        raise ValueError("it names its database twice")
    return _db("/".join(words) or number)


def _db(text: str) -> int:
    if text and not (text.isascii() and text.isdecimal()):
        raise ValueError("its database is no number")
    return int(text or 0)
