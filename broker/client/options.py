"""How a client behaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict
from urllib.parse import quote, urlsplit

import attrs

from broker.client.errors import Invalid


class Settings(TypedDict, total=False):
    """What can be told to a client; see ``Options``."""

    name: str
    timeout: float
    late_window: float
    wait: bool
    first_wait: float
    max_wait: float
    max_attempts: int | None
    connect_timeout: float
    ping_interval: float
    ping_timeout: float
    close_timeout: float
    max_buffered: int
    max_buffered_bytes: int
    max_message_bytes: int
    max_unread: int
    rate: float | None
    resend_window: float
    max_received_bytes: int
    ca_file: str


def _is_address(url: str) -> bool:
    try:
        split = urlsplit(url)
        host = (split.hostname or "").encode("idna")
        known = split.scheme in ("ws", "wss") and bool(host) and split.port != 0
        return known and "@" not in split.netloc and "#" not in url
    except ValueError:
        return False


def _urls(url: str | Sequence[str]) -> tuple[str, ...]:
    return (url,) if isinstance(url, str) else tuple(url)


@attrs.frozen
class Options:
    """Of one client; times are in seconds.

    Attributes:
        urls: of the broker, ``ws://`` or ``wss://``, with the path of the native dialect: one, or those of several
            nodes, of which each attempt takes the next; where it begins is left to chance.
        name: the client id that it asks for; "": none.
        timeout: of what has no other.
        late_window: how long after its deadline a call may still be answered, if ``on_late`` wants to know.
        wait: whether what is asked while there is no connection waits for one, or fails at once.
        first_wait: what the first wait after a loss takes at most; each next one may take twice as long.
        max_wait: what any wait takes at most.
        max_attempts: that may fail in a row until it gives up; None: it never does.
        connect_timeout: until a connection is ready.
        ping_interval: of silence after which it looks whether the broker is there.
        ping_timeout: for its answer.
        close_timeout: for a close in good order.
        max_buffered: operations that may wait for a connection.
        max_buffered_bytes: of their frames.
        max_message_bytes: of one frame: ``TXBROKER_MAX_MESSAGE_BYTES``.
        max_unread: items of one stream that may wait for the application.
        rate: operations per second at most; None: as the broker lets it.
        resend_window: for how long after it was sent first something is sent again:
            less than ``TXBROKER_DEDUP_SECONDS``.
        max_received_bytes: of one frame of the broker; what sends more is no broker, and is left.
        ca_file: a PEM file with the certificates that are trusted for ``wss://``; "": those of the system.
    """

    urls: tuple[str, ...] = attrs.field(converter=_urls)
    name: str = ""
    timeout: float = 30.0
    late_window: float = 60.0
    wait: bool = True
    first_wait: float = 0.2
    max_wait: float = 30.0
    max_attempts: int | None = None
    connect_timeout: float = 10.0
    ping_interval: float = 20.0
    ping_timeout: float = 10.0
    close_timeout: float = 3.0
    max_buffered: int = 10_000
    max_buffered_bytes: int = 16 << 20
    max_message_bytes: int = 1 << 20
    max_unread: int = 1000
    rate: float | None = None
    resend_window: float = 240.0
    max_received_bytes: int = 64 << 20
    ca_file: str = ""

    def __attrs_post_init__(self) -> None:
        if not self.urls or not all(map(_is_address, self.urls)):
            what = "begins with ws:// or wss://, has the name of a host, and neither a credential nor a fragment"
            raise Invalid(f"the URL of a broker {what}")
        try:
            self.name.encode()
        except UnicodeEncodeError:
            raise Invalid("the name of a client has a lone surrogate") from None

    def address_of(self, url: str) -> str:
        """Return *url* with the name."""
        if not self.name:
            return url
        return f"{url}{'&' if '?' in url else '?'}client={quote(self.name, safe='')}"
