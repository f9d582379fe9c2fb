"""The keys of a bus in Redis, and all that a user of that must be permitted; the script says what each key holds."""

from __future__ import annotations

from broker.redis.rights import Need, commands_of, needs_of

# After the prefix.
LEASES = (b"nodes", b"leases", b"numbers", b"renewed", b"server", b"form")
NAMES = (b"names", b"untidy", b"tidying", b"grace", b"settling", b"returning")


def bus_needs(script: bytes, prefix: bytes, channels: bytes) -> list[Need]:
    """Return what a bus needs that calls *script*, and subscribes."""
    return needs_of({*commands_of(script), b"PING"}, prefix, (*LEASES, *NAMES), channels)
