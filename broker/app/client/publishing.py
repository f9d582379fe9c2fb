"""What ``txbroker publish`` does."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from broker.app.client.input import input_lines
from broker.app.client.output import emit, emit_json
from broker.app.client.payloads import payload_of, value_of
from broker.app.client.running import once
from broker.app.client.target import Target
from broker.client import Published
from broker.client.asyncio import Client
from broker.errors import Invalid

MAX_PENDING = 100  # lines that are published at once


def publish(
    target: Target,
    topic: str,
    payload: str,
    given: Mapping[str, Any],
    *,
    as_text: bool,
    lines: bool,
    as_json: bool,
) -> None:
    """Publish *payload*, or each line of standard input; print what has become of it.

    Args:
        target: the broker.
        topic: its name.
        payload: the argument, or "".
        given: the options of ``Verbs.publish``.
        as_text: whether it is text in any case.
        lines: whether each line of standard input is an event.
        as_json: whether JSON is printed.

    Raises:
        Invalid: options that do not go together.
    """
    if lines and (payload or given["key"] or given["expect"] is not None):
        raise Invalid(message="--lines publishes many events: PAYLOAD, --key and --expect are of one")
    durable = given["durable"] or given["key"] is not None or given["expect"] is not None
    if durable and given["retain"]:
        raise Invalid(message="--retain is for events that are not stored: the last stored one is kept anyway")
    options = {**given, "durable": durable}
    if lines:
        once(target, lambda client: _publish_lines(client, topic, options, as_text, as_json), endless=True)
        return
    value = payload_of(payload, as_text=as_text) if payload else "" if as_text else None
    done: Published = once(target, lambda client: _publish(client, topic, value, options))
    _show(done, as_json)


async def _publish(client: Client, topic: str, value: Any, options: dict[str, Any]) -> Published:
    # With a key it is sent again after a loss, and stored once all the same.
    key = options["key"] or (uuid4().hex if options["durable"] else None)
    return await client.publish(topic, value, **{**options, "key": key})


async def _publish_lines(client: Client, topic: str, options: dict[str, Any], as_text: bool, as_json: bool) -> None:
    pending: deque[asyncio.Task[Published]] = deque()
    problem: Invalid | None = None
    try:
        try:
            async for line in input_lines():
                value = line if as_text else value_of(line)
                pending.append(asyncio.create_task(_publish(client, topic, value, options)))
                while len(pending) >= MAX_PENDING or (pending and pending[0].done()):
                    _show(await pending.popleft(), as_json)
        except Invalid as error:
            problem = error  # the lines before it are published
        while pending:
            _show(await pending.popleft(), as_json)
        if problem is not None:
            raise problem
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


def _show(done: Published, as_json: bool) -> None:
    stored = {"id": done.id, "epoch": done.epoch, "time": done.time, "duplicate": done.duplicate}
    if as_json:
        emit_json(stored if done.epoch else {"delivered": done.delivered})
    elif done.epoch:
        emit(f"stored as {done.epoch}:{done.id}" + (", a duplicate" if done.duplicate else ""))
    else:
        emit(f"delivered to {done.delivered}")
