"""What the text of an endpoint or a URL says."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.address import UNIXAddress

LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def is_local(endpoint: str) -> bool:
    """Whether the endpoint string *endpoint* listens where this machine alone can connect."""
    kind, *words = re.split(r"(?<!\\):", endpoint.removeprefix("haproxy:"))
    if kind == "unix":
        return True
    interfaces = [word.partition("=")[2].replace("\\", "") for word in words if word.startswith("interface=")]
    return bool(interfaces) and all(map(_is_loopback, interfaces))


def _is_loopback(interface: str) -> bool:
    try:
        return interface == "localhost" or ipaddress.ip_address(interface).is_loopback
    except ValueError:
        return False


def is_unix(endpoint: str) -> bool:
    """Whether the endpoint string *endpoint* may be that of a unix socket."""
    return _kind(endpoint) == "unix" or (_kind(endpoint) == "systemd" and "domain=UNIX" in endpoint)


def is_over_tcp(endpoint: str) -> bool:
    """Whether connections to the endpoint string *endpoint* are of TCP, and bare."""
    return _kind(endpoint) in ("tcp", "tcp6") or (_kind(endpoint) == "systemd" and not is_unix(endpoint))


def _kind(endpoint: str) -> str:
    return endpoint.removeprefix("haproxy:").partition(":")[0].lower()


def is_redis(url: str) -> bool:
    """Whether *url* is meant for a Redis; ``RedisAddress.parse`` says whether it is right."""
    return url.startswith("redis")


def without_password(url: str) -> str:
    """Return *url* with the password it may hold masked."""
    try:
        split = urlsplit(url)
        if split.password is None:
            return url
        host = split.netloc.rpartition("@")[2]
        return split._replace(netloc=f"{split.username or ''}:***@{host}").geturl()
    except ValueError:
        return url.partition("://")[0] + "://***"


def place_of(address: Any) -> str:
    """Return where a port of raw connections is, by its ``IAddress``, as a client on this machine would say it."""
    if isinstance(address, UNIXAddress):
        return f"unix:{os.fsdecode(address.name or b'')}"
    host = LOOPBACK_OF.get(address.host, address.host)
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"


def url_of(endpoint: str, address: Any, tls: bool = False) -> str:
    """Return the URL by which clients on this machine reach a port.

    Args:
        endpoint: the endpoint string.
        address: the ``IAddress`` of the port.
        tls: whether endpoints of TCP are for TLS.
    """
    if isinstance(address, UNIXAddress):
        return f"unix:{os.fsdecode(address.name or b'')}"
    host = LOOPBACK_OF.get(address.host, address.host)
    secured = tls or endpoint.removeprefix("haproxy:").startswith(("ssl:", "tls:"))
    scheme = "https" if secured else "http"
    return f"{scheme}://[{host}]:{address.port}" if ":" in host else f"{scheme}://{host}:{address.port}"
