"""Where clients come from: addresses as limits count them, and what trusted proxies say of their clients."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from broker.remembered import remembered

UNIX = "unix"  # the word for those who come over a unix socket
# What a proxy writes: an address, perhaps with a port; one of IPv6 that has a port is in brackets.
NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?|([0-9A-Fa-f:.]+)")
MAX_HOPS = 32  # proxies of ours that one request may pass


@remembered(4096)
def plain_address(text: str) -> str:
    """Return *text* as limits and logs have it: an IPv4 address that a socket of IPv6 tells of is one of IPv4."""
    address = _parsed(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped) if mapped is not None else text


class TrustedProxies:
    """The proxies that are believed when they say whom they speak for.

    Attributes:
        trusts: returns whether an address is that of a trusted proxy.
        is_exempt: returns whether no limit of one address holds for an address: this machine, a unix
            socket, or a trusted proxy.  All clients of a proxy have its address, and those of
            this machine could do worse.

    Args:
        networks: their addresses: single ones, networks in CIDR notation, or "unix" for those of unix sockets.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        words = set(networks)
        self._networks = [ip_network(word, strict=False) for word in words - {UNIX}]
        self._unix = UNIX in words
        self.trusts = remembered(4096)(self._trusts)
        self.is_exempt = remembered(4096)(self._is_exempt)
        self._read = remembered(4096)(self._read_headers)

    def _trusts(self, address: str) -> bool:
        parsed = _parsed(address)
        if parsed is None:
            return self._unix
        return any(_is_in(parsed, network) for network in self._networks)

    def _is_exempt(self, address: str) -> bool:
        parsed = _parsed(address)
        return parsed is None or parsed.is_loopback or self.trusts(address)

    def client_of(self, address: str, headers: Mapping[str, str]) -> str:
        """Return the address of the client for which the trusted proxy at *address* makes a request with *headers*.

        "The first address, from the right, that is no trusted proxy": whatever stands before it was
        written by the client.  It is *address* itself when the headers say nothing that can be read, or when
        ``Forwarded`` and ``X-Forwarded-For`` do not agree, as a proxy writes one and lets the other pass.
        """
        named = (headers.get("forwarded"), headers.get("x-forwarded-for"))
        return address if named == (None, None) else self._read(*named) or address

    def _read_headers(self, forwarded: str | None, forwarded_for: str | None) -> str:
        """Return the client's address, or "" when the values of the two headers do not tell."""
        found = set()
        if forwarded is not None:
            found.add(self._client([_for_of(element) for element in forwarded.split(",")]))
        if forwarded_for is not None:
            found.add(self._client([part.strip() for part in forwarded_for.split(",")]))
        return found.pop() if len(found) == 1 else ""

    def _client(self, nodes: list[str]) -> str:
        """Return the address of the client of a chain of *nodes*, the nearest last; "" when it can not be told."""
        address = ""
        for node in reversed(nodes[-MAX_HOPS:]):
            match = NODE.fullmatch(node)
            address = (match[1] or match[2] or match[3]) if match else ""
            parsed = _parsed(address)
            if parsed is None:
                return ""
            address = plain_address(str(parsed))
            if not self.trusts(address):
                return address
        return address  # a proxy of ours asks by itself


def _for_of(element: str) -> str:
    """Return the node of ``for`` in an *element* of ``Forwarded`` (RFC 7239, 4), or ""."""
    for pair in element.split(";"):
        name, _, value = pair.strip().partition("=")
        if name.lower() == "for":
            return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    return ""


def _is_in(address: IPv4Address | IPv6Address, network: IPv4Network | IPv6Network) -> bool:
    return address.version == network.version and address in network


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
