"""The form of what is in Redis, which must be one that this version knows."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from broker.redis.connection import NotUsable, ResponseError
from broker.versions import FORM

KEY = b"form"  # after the prefix
NEWER_FORM = "NEWER_FORM"  # begins the error of a script that has found another one


async def check_form(protocol: Any, prefix: bytes) -> None:
    """Note the form of what this version writes, if there is none yet.

    Raises:
        NotUsable: a later version has given it another one.
    """
    found = await protocol.execute_command(b"GET", prefix + KEY)
    if found is None:
        await _note(protocol, prefix + KEY)
    elif int(found) > FORM:
        raise NotUsable(
            f"its data have the form {int(found)}, of a later version of txbroker; this one knows forms up to {FORM}: "
            "see docs/operations/scaling"
        )


async def _note(protocol: Any, key: bytes) -> None:
    # It is full, perhaps: who connects next tries again.
    with suppress(ResponseError):
        await protocol.execute_command(b"SET", key, b"%d" % FORM, b"NX")
