"""By which names a broker is reached, where no credential tells programs of this machine from others."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import AddressValueError, IPv6Address, ip_address

from broker.remembered import remembered

HOST_AND_PORT = re.compile(r"(\[[0-9a-f:.]+\]|[^\s/?#@:\\\[\]]+)(?::[0-9]*)?", re.IGNORECASE)
REMEMBERED = 100  # names of hosts: clients come by the same few
INTERNATIONAL = re.compile(r"[^\s/?#@:\\\[\]]*[^\x00-\x7f][^\s/?#@:\\\[\]]*")  # a name with other letters than ASCII's


class Hosts:
    """Judges the ``Host`` that a request is sent to.

    A page of https://evil.example whose name begins to resolve to 127.0.0.1 (DNS rebinding) is of the
    broker's own origin for its browser.  What remains is the name: the browser sends it as ``Host``.

    Names of this machine are "localhost" and loopback addresses as they are usually written; "127.1" is not, and a
    browser does not send it.

    Args:
        allowed: names or addresses besides those; a port behind them says nothing.  "*" is any.

    Raises:
        ValueError: one of them is neither.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._any = False
        self._allowed: set[str] = set()
        for text in allowed:
            name = _name_of(in_ascii(text))
            if not name:
                raise ValueError(f"TXBROKER_ALLOWED_HOSTS: {text!r} is no name of a host")
            if "*" in name and name != "*":
                raise ValueError(f"TXBROKER_ALLOWED_HOSTS: {text!r} is the name of no host: each is named in full")
            self._any |= name == "*"
            self._allowed.add(name)

    def admit(self, host: str | None) -> bool:
        """Whether a request with the field *host* may be answered; None: it has none, as no browser does."""
        if host is None or self._any:
            return True
        name = _name_of(host)
        return name in self._allowed or name == "localhost" or _is_loopback(name)


def in_ascii(text: str) -> str:
    """Return *text*, which an operator has written, with its names as browsers send them, in ASCII (RFC 3490)."""
    if text.isascii():  # which the expression would take long to find out of a long one
        return text
    try:
        return INTERNATIONAL.sub(lambda found: found[0].encode("idna").decode("ascii"), text)
    except UnicodeError:
        return text


def host_name(host: str) -> str:
    """Return *host*, a name or an address without a port, in its one comparable form; "" when it is none.

    One with other letters than those of ASCII is none: no browser sends it, and to translate it would take a
    client's request 0.1 s.
    """
    host = host.lower()
    try:
        if host.startswith("["):
            return f"[{IPv6Address(host[1:-1]).compressed}]"
        return host if host.isascii() else ""
    except AddressValueError:
        return ""


@remembered(REMEMBERED)
def _name_of(text: str) -> str:
    """Return the name in *text*, which may have a port, without the dot of the root."""
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"  # how people write an address of IPv6
    found = HOST_AND_PORT.fullmatch(text)
    return host_name(found[1]).removesuffix(".") if found else ""


@remembered(REMEMBERED)
def _is_loopback(name: str) -> bool:
    try:
        address = ip_address(name.strip("[]"))
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
