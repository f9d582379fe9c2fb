"""Where clients come from: addresses as limits count them, and what trusted proxies say of their clients."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import attrs

from broker.access.hosts import HOST_AND_PORT
from broker.remembered import remembered

UNIX = "unix"  # the word for those who come over a unix socket
# What a proxy writes: an address, perhaps with a port; one of IPv6 that has a port is in brackets.
NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?|([0-9A-Fa-f:.]+)")
SECURE = ("https", "wss")
MAX_HOPS = 32  # proxies of ours that one request may pass


# What says it, in the order of ``TrustedProxies._read_headers``.
NAMES = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto")
NONE = (None,) * len(NAMES)


@attrs.frozen
class Forwarded:
    """What trusted proxies say of a request.

    Attributes:
        client: the address of whom it comes from; "" when they do not tell.
        host: what the client has sent as ``Host``, if the proxy sends another one; "" when they do not tell.
        secure: whether it came to the first of them over TLS.
    """

    client: str = ""
    host: str = ""
    secure: bool = False


NOTHING = Forwarded()


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
        return self.read(headers).client or address

    def read(self, headers: Mapping[str, str]) -> Forwarded:
        """Return what the *headers* of a request say, which comes from a trusted proxy."""
        named = tuple(map(headers.get, NAMES))
        return NOTHING if named == NONE else self._read(*named)

    def _read_headers(self, forwarded: str | None, *values: str | None) -> Forwarded:
        """Return what the values of the headers :data:`NAMES` say; of two that differ neither is believed."""
        nodes, host, proto = ([part.strip() for part in value.split(",")] if value else [] for value in values)
        clients, hosts, protos = [], [host[-1]] if host else [], [proto[-1]] if proto else []
        if nodes:
            clients.append(self._client(nodes)[0])
        if forwarded is not None:
            elements = [_pairs_of(element) for element in forwarded.split(",")]
            client, index = self._client([pairs.get("for", "") for pairs in elements])
            clients.append(client)
            # What the proxy says that has named the client.
            hosts += [elements[index]["host"]] if "host" in elements[index] else []
            protos += [elements[index]["proto"]] if "proto" in elements[index] else []
        told = _only(hosts)
        return Forwarded(_only(clients), told if HOST_AND_PORT.fullmatch(told) else "", _only(protos).lower() in SECURE)

    def _client(self, nodes: list[str]) -> tuple[str, int]:
        """Return the address of the client of a chain of *nodes*, the nearest last, and which of them that is.

        It is "" when it can not be told.
        """
        address, index = "", len(nodes) - 1
        for index in range(len(nodes) - 1, max(-1, len(nodes) - 1 - MAX_HOPS), -1):
            match = NODE.fullmatch(nodes[index])
            address = (match[1] or match[2] or match[3]) if match else ""
            parsed = _parsed(address)
            if parsed is None:
                return "", index
            address = plain_address(str(parsed))
            if not self.trusts(address):
                return address, index
        return address, index  # a proxy of ours asks by itself


def _pairs_of(element: str) -> dict[str, str]:
    """Return the pairs in an *element* of ``Forwarded`` (RFC 7239, 4), by lower-case name; the first of each."""
    found: dict[str, str] = {}
    for pair in element.split(";"):
        name, _, value = pair.strip().partition("=")
        found.setdefault(name.lower(), value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value)
    return found


def _only(values: list[str]) -> str:
    """Return what all *values* are, or "" when they differ or there is none."""
    return values[0] if len(set(values)) == 1 else ""


def _is_in(address: IPv4Address | IPv6Address, network: IPv4Network | IPv6Network) -> bool:
    return address.version == network.version and address in network


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
