"""Settings that are so small that clients could do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MIN_MEMORY = 1 << 20  # bytes: with less, a few connections and what they ask for are too many
TIGHT = ("memory_limit_bytes", "max_message_bytes")
# The smallest value of each, and what would be with a smaller one.
MINIMUMS = {
    "auth_tries": (1, "no credential would be looked at"),
    "token_seconds": (1, "a token would end before it is used"),
    "call_timeout_seconds": (0.001, "no call could be answered in time"),
    "max_call_timeout_seconds": (0.001, "no call could be answered in time"),
    "lease_seconds": (0.001, "no job could be done in time"),
    "max_message_bytes": (256, "no client could say who it is"),
}


def too_small(settings: Any) -> Iterator[str]:
    """Yield a sentence for each setting with which the daemon would be of no use."""
    for name, (minimum, what) in MINIMUMS.items():
        if name in settings.sources and getattr(settings, name) < minimum:
            yield f"{settings.sources[name]}: expected {minimum:g} at least: else {what}"
    limit, message = settings.memory_limit_bytes, settings.max_message_bytes
    if "memory_limit_bytes" not in settings.sources or not limit:
        return
    if limit < MIN_MEMORY:
        yield (
            f"TXBROKER_MEMORY_LIMIT_BYTES: expected {MIN_MEMORY} at least, or none: with {limit} bytes each client "
            "would be closed, or refused what it publishes"
        )
    elif limit < message:
        yield (
            f"TXBROKER_MEMORY_LIMIT_BYTES: {limit} bytes have no room for one message of "
            f"TXBROKER_MAX_MESSAGE_BYTES, which is {message}"
        )


def tight(settings: Any) -> Iterator[str]:
    """Yield a sentence for each setting that leaves little of what another one promises."""
    limit, message = settings.memory_limit_bytes, settings.max_message_bytes
    if message <= limit < 2 * message and not settings.sources.keys().isdisjoint(TIGHT):
        yield (
            f"TXBROKER_MEMORY_LIMIT_BYTES is {limit}, of which half is for what clients send in part: who sends more "
            f"than that as one message is closed, although TXBROKER_MAX_MESSAGE_BYTES is {message}"
        )
