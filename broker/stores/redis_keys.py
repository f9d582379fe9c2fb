"""The keys of a store in Redis, and all that a user of that must be permitted; the scripts say what each key holds."""

from __future__ import annotations

from broker.redis.rights import Need, commands_of, needs_of

# After the prefix; names of topics, queues, spaces and nodes follow a colon.
SPACES = (b"keys:", b"order:", b"due:", b"owned:", b"spaces", b"revisions", b"changed", b"watched", b"previous")
LOGS = (b"log:", b"logs", b"heads", b"floors", b"latest", b"opened", b"known:", b"changes")
QUEUES = (
    *(b"jobs-%b:" % kind for kind in (b"ready", b"blocked", b"due", b"flight", b"dead")),
    *(b"jobs-%b:" % kind for kind in (b"ends", b"active", b"behind", b"keys", b"kept", b"on")),
    *(b"job-number", b"job:", b"job-nodes", b"queues", b"queue-owners"),
)
TIMELINE = (b"epoch", b"form", b"mark", b"clock", b"caller:", b"timelines", b"members", b"arriving", b"arrived")
KEYS = (*TIMELINE, *LOGS, *SPACES, *QUEUES, b"accounts")


def store_needs(scripts: tuple[bytes, ...], prefix: bytes, channels: bytes, announce: bool) -> list[Need]:
    """Return what a store needs that calls *scripts*, and publishes if it is to *announce*."""
    commands = commands_of(*scripts)
    return needs_of(commands if announce else commands - {b"PUBLISH"}, prefix, KEYS, channels)
