"""Which broker the commands of application developers speak to, and as whom."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import attrs

from broker.app.commands.console import read_settings
from broker.errors import Invalid

EXAMPLE = "http://localhost:8000"
PATH = "v1/ws"  # of the native dialect
SECURED = {"http": False, "ws": False, "https": True, "wss": True}  # schemes
MAX_CREDENTIAL = 16384  # bytes of a file


@attrs.frozen
class Target:
    """A broker as a client sees it.

    Attributes:
        url: ``ws://`` or ``wss://``, with the path of the native dialect.
        credential: that is shown, or "".
        ca_file: with the certificates that are trusted, or "": those of the system.
        client: the client id that is asked for, or "".
        timeout: seconds that a command may take; None: any time.
    """

    url: str
    credential: str = attrs.field(default="", repr=False)
    ca_file: str = ""
    client: str = ""
    timeout: float | None = None

    @property
    def split(self) -> SplitResult:
        """The parts of the URL."""
        return urlsplit(self.url)

    @property
    def secured(self) -> bool:
        """Whether it is reached over TLS."""
        return self.split.scheme == "wss"

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port."""
        split = self.split
        return split.hostname or "", split.port or (443 if self.secured else 80)

    @property
    def base(self) -> str:
        """The URL of the dialects over HTTP, without a slash at the end."""
        split = self.split
        return split._replace(scheme="https" if self.secured else "http", path=self.prefix, query="").geturl()

    @property
    def prefix(self) -> str:
        """What stands before the paths of the broker, at a proxy for example; mostly ""."""
        return self.split.path.removesuffix(f"/{PATH}") if self.split.path.endswith(f"/{PATH}") else ""


def find_target(environ: Mapping[str, str], url: str, credential_file: str, **others: object) -> Target:
    """Return the broker that the options and *environ* name, or the one of this machine.

    Args:
        environ: the environment.
        url: of the option, or "".
        credential_file: of the option, or "".
        others: further attributes of the target.

    Raises:
        Invalid: the URL, or a file, can not be used.
    """
    given = url or environ.get("TXBROKER_URL", "").strip()
    credential = _credential(environ, credential_file)
    if not given:
        # The settings are those of a daemon on this machine: its secret is for nobody else.
        from broker.app.ports import url_of_port
        from broker.config.settings import DEFAULT_PORT

        settings = read_settings()
        secured = bool(settings.tls_certificate_file)
        given = url_of_port(settings.listen, f"http://127.0.0.1:{DEFAULT_PORT}", secured=secured)
        credential = credential or settings.api_secret
    ca_file = str(others.pop("ca_file", "") or environ.get("TXBROKER_CA_FILE", "").strip())
    if ca_file:
        trusted(ca_file)
    return Target(native_url(given), credential, ca_file, **others)  # type: ignore[arg-type]  # the caller's


def trusted(ca_file: str) -> ssl.SSLContext:
    """Return what trusts the certificates of *ca_file*, or of the system if that is "".

    Raises:
        Invalid: the file can not be used.
    """
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise Invalid(message=f"{ca_file} has no certificates that can be used: {error}") from None


def native_url(text: str) -> str:
    """Return where the native dialect is at *text*: a URL of ``http``, ``https``, ``ws`` or ``wss``.

    A path that ends in a slash, or none, is what stands before the paths of the broker; another one is that of the
    native dialect.

    Raises:
        Invalid: it is no such URL, or has a credential in it.
    """
    try:
        split = urlsplit(text if "://" in text or text.startswith("unix:") else f"http://{text}")
        secured = SECURED[split.scheme]
        fine = bool((split.hostname or "").encode("idna")) and split.port != 0
    except (KeyError, ValueError):
        fine = False
    if not fine:
        raise Invalid(message=f"expected a URL such as {EXAMPLE}, not {_without_secret(text)!r}")
    if "@" in split.netloc or split.query:
        raise Invalid(message="others can see what is in a URL: use TXBROKER_CREDENTIAL or --credential-file")
    path = split.path + PATH if split.path.endswith("/") else split.path or f"/{PATH}"
    return split._replace(scheme="wss" if secured else "ws", path=path, fragment="").geturl()


def _without_secret(text: str) -> str:
    return text.rpartition("@")[2].partition("?")[0]


def _credential(environ: Mapping[str, str], file: str) -> str:
    text = "" if file else environ.get("TXBROKER_CREDENTIAL", "").strip()
    path = file or environ.get("TXBROKER_CREDENTIAL_FILE", "").strip()
    if text and path:
        raise Invalid(message="TXBROKER_CREDENTIAL and TXBROKER_CREDENTIAL_FILE are both set: which one is meant?")
    if path:
        text = _read(path)
    if not (text.isprintable() and text.isascii()):
        raise Invalid(message="the credential has characters that can not be sent")
    return text


def _read(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            text = file.read(MAX_CREDENTIAL + 1)
            found = text.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(message=f"the credential can not be read: {error}") from None
    if not found or len(text) > MAX_CREDENTIAL:
        raise Invalid(message=f"{path} has no credential: it is {'too large' if found else 'empty'}")
    return found
