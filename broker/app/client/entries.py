"""What ``txbroker kv`` does."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from broker.app.client.output import emit, emit_json, for_terminal, one_line
from broker.app.client.payloads import payload_of
from broker.app.client.running import forever, on_terminate, once
from broker.app.client.target import Target
from broker.app.commands.console import FAILED, fail
from broker.client import Change, Entry
from broker.client.asyncio import Client


def get(target: Target, key: str, *, as_json: bool) -> None:
    """Print the value of *key*; end with the status 1 if there is none."""
    entry: Entry = once(target, lambda client: client.get(key))
    if as_json:
        emit_json(_as_dict(entry))
    elif entry.value is not None:
        emit(for_terminal(entry.value))
    if entry.value is None:
        fail(f"NOT_FOUND: there is no key {one_line(key)}", FAILED)


def set_key(target: Target, key: str, value: str, *, ttl: float | None, revision: int | None, as_json: bool) -> None:
    """Create or replace *key*; print its revision."""
    text = payload_of(value, as_text=True)
    entry: Entry = once(target, lambda client: client.set(key, text, ttl=ttl, revision=revision))
    if as_json:
        emit_json({"key": key, "revision": entry.revision})
    else:
        emit(f"revision {entry.revision}")


def patch(target: Target, key: str, value: str, *, as_json: bool) -> None:
    """Change *key*; print its value."""
    text = payload_of(value, as_text=True)
    _show(once(target, lambda client: client.patch(key, text)), as_json)


def increment(target: Target, key: str, amount: float, *, as_json: bool) -> None:
    """Add *amount* to *key*; print its value."""
    whole_number = int(amount) if amount.is_integer() and abs(amount) < 2**53 else amount
    _show(once(target, lambda client: client.increment(key, whole_number)), as_json)


def delete(target: Target, key: str, revision: int | None, *, as_json: bool) -> None:
    """Remove *key*; print whether it was there."""
    deleted: bool = once(target, lambda client: client.delete(key, revision=revision))
    if as_json:
        emit_json({"key": key, "deleted": deleted})
    else:
        emit("deleted" if deleted else "there was no such key")


def show_range(target: Target, first: str, last: str, limit: int, *, as_json: bool) -> None:
    """Print the keys from *first* to *last*."""
    entries: list[Entry] = once(target, lambda client: client.range(first, last, limit=limit))
    for entry in entries:
        if as_json:
            emit_json(_as_dict(entry))
        else:
            emit(f"{one_line(entry.key)}  {one_line(entry.value or '')}")


def watch(target: Target, pattern: str, *, previous: bool, exact: bool, count: int | None, as_json: bool) -> None:
    """Print the changes of keys as they come."""
    forever(target, lambda client: _watch(client, pattern, previous, exact, count, as_json))


async def _watch(client: Client, pattern: str, previous: bool, exact: bool, count: int | None, as_json: bool) -> None:
    items = client.watch(pattern, previous=previous, exact=exact)
    on_terminate(items.close)
    shown = 0
    async for change in items:
        if as_json:
            emit_json(_change_as_dict(change))
        else:
            emit(_change_as_line(change))
        shown += 1
        if shown == count:
            return


def _show(entry: Entry, as_json: bool) -> None:
    if as_json:
        emit_json(_as_dict(entry))
    else:
        emit(for_terminal(entry.value or ""))


def _as_dict(entry: Entry) -> dict[str, Any]:
    told: dict[str, Any] = {"key": entry.key, "value": entry.value, "revision": entry.revision}
    return told | ({"expires": entry.expires} if entry.expires else {})


def _change_as_dict(change: Change) -> dict[str, Any]:
    told = {"key": change.key, "value": change.value, "revision": change.revision, "kind": change.kind}
    told |= {"previous": change.previous} if change.previous is not UNSET else {}
    return told | ({"time": change.time} if change.time else {})


def _change_as_line(change: Change) -> str:
    words = [change.key, change.kind, *([] if change.value is None else [change.value])]
    if change.previous is not UNSET:
        words.append(f"(before: {change.previous})")
    return "  ".join(map(one_line, words))
