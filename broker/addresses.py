"""What the text of an address tells."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit


def is_local(endpoint: str) -> bool:
    """Whether what *endpoint* listens on can be reached from this machine only."""
    kind, *words = re.split(r"(?<!\\):", endpoint)
    if kind == "unix":
        return True
    for word in words:
        name, _, value = word.partition("=")
        if name == "interface":
            value = value.replace("\\", "")
            try:
                return value == "localhost" or ipaddress.ip_address(value).is_loopback
            except ValueError:
                return False
    return False


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
