"""What can be known of a Redis server by a user whose ACL permits no dangerous commands, INFO among them."""

from __future__ import annotations

from hashlib import sha1
from typing import Any

from broker.redis.connection import ResponseError

# More bytes than a server keeps in a compact form: the set is a hash table.
MEMBERS = tuple(b"%02d %b" % (number, 70 * b".") for number in range(32))
ROLES = {"replica": "slave"}  # the words of HELLO that INFO has others for


async def read_unprivileged(protocol: Any, prefix: bytes) -> dict[str, str]:
    """Return fields as INFO has them: ``redis_version``, ``role``, ``run_id`` and ``used_memory``.

    Args:
        protocol: the connection.
        prefix: what all keys of the broker begin with.
    """
    hello = _pairs(await protocol.execute_command(b"HELLO"))
    role = hello.get("role", "master")
    info = {"redis_version": hello.get("version", ""), "role": ROLES.get(role, role)}
    if info["role"] == "master":
        info["run_id"] = await _run_of(protocol, prefix + b"order")
    try:
        stats = _pairs(await protocol.execute_command(b"MEMORY", b"STATS"))
    except ResponseError:
        return info
    return {**info, "used_memory": stats.get("total.allocated", "0")}


async def _run_of(protocol: Any, key: bytes) -> str:
    """Return a word that is another one each time a server is started, and the same for all who ask it; "" for none.

    It is made of the order in which a server lists a set: that depends on a random number that each draws when it
    starts, so that nobody else tells hash tables full of collisions.
    """
    try:
        if await protocol.execute_command(b"SCARD", key) != len(MEMBERS):
            await protocol.execute_command(b"SADD", key, *MEMBERS)
        for _ in range(4):  # each look moves a table on that grows, until its order stays as it is
            await protocol.execute_command(b"SMISMEMBER", key, *MEMBERS)
        listed = await protocol.execute_command(b"SMEMBERS", key)
    except ResponseError:  # it is full, perhaps
        return ""
    return sha1(b"".join(listed), usedforsecurity=False).hexdigest()


def _pairs(flat: list[Any]) -> dict[str, str]:
    """Return a reply of names and values, one after the other, as a dict of texts."""
    found = zip(flat[::2], flat[1::2], strict=False)
    return {_text(name): _text(value) for name, value in found}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
