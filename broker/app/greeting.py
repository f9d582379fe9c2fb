"""The log lines of a daemon that is ready: its addresses, and a command to try each dialect."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from broker import __version__
from broker.config.addresses import url_of
from broker.config.settings import KEY_VARIABLE, Settings
from broker.interfaces import IHttpDialect, IWebSocketDialect
from broker.web.extras import DialectExtras

log = Logger()


def announce_start(
    ports: Sequence[tuple[str, IListeningPort]], dialects: Iterable[Any], settings: Settings, *, ready: bool = True
) -> None:
    """Log a line for each port, with its endpoint string, and one for each dialect.

    *ready* says whether the daemon can do its work already.
    """
    urls = [url_of(endpoint, port.getHost(), bool(settings.tls_certificate_file)) for endpoint, port in ports]
    for url in urls:
        if ready:
            log.info("txbroker {version} is ready at {url}", version=__version__, url=url)
        else:
            log.warn("txbroker {version} is at {url}, and not ready: see txbroker status", version=__version__, url=url)
    first = next((url for url in urls if url.startswith("http")), "")
    lines = [
        (dialect.name, example(dialect, first, settings.credential_variable))
        for dialect in (dialects if first else ())
        if _serves_port(dialect)
    ]
    for name, line in lines:
        log.info("try {dialect}: {line}", dialect=name, line=line, log_trusted=True)
    if any(KEY_VARIABLE in line for _, line in lines):
        log.info(
            "{variable} in these commands is a credential of {settings}",
            variable=KEY_VARIABLE,
            settings=settings.credentials,
        )


def _serves_port(dialect: Any) -> bool:
    """Whether it is at the public port that *dialect* can be tried."""
    return bool(
        IWebSocketDialect.providedBy(dialect) or IHttpDialect.providedBy(dialect) or DialectExtras.of(dialect).example
    )


def example(dialect: Any, url: str, key: str = "any") -> str:
    """Return a shell command that speaks *dialect* with the daemon at *url*.

    A dialect may have its own in ``example``, in which ``{http}`` and ``{ws}``
    stand for the two URLs of the daemon, ``{websocket}`` for a client, and ``{key}`` for *key*, a credential.
    """
    ws = "ws" + url.removeprefix("http")
    if IWebSocketDialect.providedBy(dialect):
        usual = "{websocket} {ws}" + dialect.websocket_paths[0]
    else:
        usual = "curl {http}" + dialect.http_paths[0]
    line = DialectExtras.of(dialect).example or usual
    for mark, text in (("{http}", url), ("{ws}", ws), ("{websocket}", _websocket_client()), ("{key}", key)):
        line = line.replace(mark, text)
    return line


def _websocket_client() -> str:
    # It comes with one of our dependencies, so it is there.
    client = Path(sys.executable).with_name("websockets")
    here = Path.cwd()
    # A service is started in "/", where nobody types what it shows.
    return str(client.relative_to(here) if here != Path("/") and client.is_relative_to(here) else client)
