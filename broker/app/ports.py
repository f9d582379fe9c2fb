"""Where the ports of a daemon on this machine are, by its settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from broker.config.addresses import LOOPBACK_OF

ENDPOINT = re.compile(r"(tcp6?|ssl):(?:port=)?(\d+)\b(.*)")
INTERFACE = re.compile(r":interface=((?:\\:|[^:])*)")
SOCKET_FILE = re.compile(r"unix:(?:address=)?((?:\\.|[^:\\])+)")


def url_of_port(endpoints: Sequence[str], default: str = "http://127.0.0.1:8001", *, secured: bool = False) -> str:
    """Return the URL of the first of the *endpoints* that can be connected to.

    Args:
        endpoints: those of ``TXBROKER_ADMIN_LISTEN`` or ``TXBROKER_LISTEN``.
        default: what is returned when there is none.
        secured: whether those of TCP are for TLS.
    """
    for endpoint in endpoints:
        file = SOCKET_FILE.match(endpoint)
        if file is not None:
            return "unix:" + quote(re.sub(r"\\(.)", r"\1", file[1]))
        found = ENDPOINT.match(endpoint)
        if found is None or found[2] == "0":
            continue
        interface = INTERFACE.search(found[3])
        host = interface[1].replace("\\", "") if interface else "::" if found[1] == "tcp6" else ""
        host = LOOPBACK_OF.get(host, host)
        scheme = "https" if secured or found[1] == "ssl" else "http"
        return f"{scheme}://[{host}]:{found[2]}" if ":" in host else f"{scheme}://{host}:{found[2]}"
    return default
