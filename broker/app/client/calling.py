"""What ``txbroker call`` does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from broker.app.client.output import as_text, emit, emit_json, for_terminal
from broker.app.client.running import once
from broker.app.client.target import Target
from broker.client import Items
from broker.client.asyncio import Client
from broker.errors import Invalid


def call(target: Target, method: str, values: Sequence[Any], recipient: str, *, as_json: bool) -> None:
    """Call *method* with *values* as its arguments, and print the result."""
    result = once(target, lambda client: client.call(method, *values, recipient=recipient, timeout=target.timeout))
    if as_json:
        emit_json(result)
    elif result is not None:
        emit(for_terminal(as_text(result)))


def request(
    target: Target,
    topic: str,
    values: Sequence[Any],
    recipient: str,
    *,
    replies: int | None,
    idle: float,
    as_json: bool,
) -> None:
    """Send a streamed request to who responds to *topic*, and print each reply.

    Raises:
        Invalid: the payload is no object.
    """
    payload = values[0] if values else {}
    if len(values) > 1 or not isinstance(payload, dict):
        raise Invalid(message="the PAYLOAD of a streamed request is one JSON object")
    asked = {"action": topic, **payload}

    def ask(client: Client) -> Items[Any]:
        return client.request(asked, recipient=recipient, replies=replies, idle=idle, timeout=target.timeout)

    once(target, lambda client: _print(ask(client), as_json), endless=True)


async def _print(replies: Items[Any], as_json: bool) -> None:
    async with replies:
        async for reply in replies:
            if as_json:
                emit_json(reply)
            else:
                emit(for_terminal(as_text(reply)))
