"""Options by the environment variables of the systems that the broker replaces."""

from __future__ import annotations

from collections.abc import Mapping


def aliases(environ: Mapping[str, str], notes: list[str]) -> dict[str, tuple[str, str]]:
    """Return the options that *environ* sets by the variables of the replaced systems.

    Args:
        environ: the environment.
        notes: warnings are appended to it.

    Returns:
        The text of each option and the variable it came from, by attribute name.
    """
    found = {}
    for attribute in ("api_secret", "log_level"):
        name = attribute.upper()
        if environ.get(name, "").strip():
            found[attribute] = (environ[name].strip(), name)
    if environ.get("POLL_TIMEOUT"):
        found["poll_timeout_seconds"] = (_from_milliseconds(environ["POLL_TIMEOUT"]), "POLL_TIMEOUT")
    port = environ.get("PORT", "")
    if port.startswith("tcp://"):
        notes.append(f"PORT={port} is what Kubernetes puts there; it is ignored. Use TXBROKER_LISTEN")
    elif port:
        # HOST counts only beside PORT: some shells export it as the machine's name.
        host = environ.get("HOST", "")
        found["listen"] = (_endpoint(port, host), "HOST and PORT" if host else "PORT")
    redis = environ.get("REDIS_EVENTS_PORT_6379_TCP_ADDR", "")
    if redis:
        redis_port = environ.get("REDIS_EVENTS_PORT_6379_TCP_PORT") or "6379"
        found["store"] = (f"redis://{redis}:{redis_port}/0", "REDIS_EVENTS_PORT_6379_TCP_ADDR")
    return found


def _from_milliseconds(text: str) -> str:
    try:
        return str(float(text) / 1000)
    except ValueError:
        return text


def _endpoint(port: str, host: str) -> str:
    if not host:
        return f"tcp:{port}"
    kind = "tcp6" if ":" in host else "tcp"
    escaped = host.replace(":", "\\:")
    return f"{kind}:{port}:interface={escaped}"
