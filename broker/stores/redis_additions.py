"""Events that the script of the Redis store appends under conditions, all of them or none."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar

from broker.messages import Addition, Event, encode_text
from broker.patterns import LOG_PREFIX
from broker.redis.event_codec import encode_extras, encode_record
from broker.redis.operations import Operation
from broker.stores.additions import head_conflict
from broker.stores.redis_swap import CONFLICT, LogOperation, over_quota


class AppendOnce(LogOperation):
    """Appends one event."""

    __slots__ = ()
    passes_reads: ClassVar[bool] = True


class AppendAll(Operation):
    """Appends several, to several logs; what is submitted later waits until it is done."""

    __slots__ = ()
    barrier: ClassVar[bool] = True

    def place(self) -> Hashable:
        """Return None: it has more than one."""
        return None


def extras_of(log: str, event: Event, announces: bool) -> bytes:
    """Return what goes before the record in the message that is published; "-" for a mark alone, "" for none."""
    if not log.startswith(LOG_PREFIX):
        return b""
    return encode_extras(event) if announces else b"-"


def adding(
    additions: Sequence[Addition], now: float, key_seconds: float, announces: bool, epoch: Callable[[], str]
) -> Operation:
    """Return what appends *additions* at the time *now*; *epoch* returns that of the store."""
    words: list[bytes] = []
    times = [each.event.time or now for each in additions]
    origin = ""
    for each, time in zip(additions, times, strict=True):
        extras = extras_of(each.log, each.event, announces)
        record = encode_record(each.event, time)
        words += (
            encode_text(each.log),
            b"=" + record if each.event.time else record,
            extras,
            each.quota.words if each.quota else b"",
            b"" if each.head is None else b"%d" % each.head,
            encode_text(each.key),
            repr(float(key_seconds)).encode(),
        )
        origin = origin or (each.event.origin if extras else "")

    def decode(results: list[Any]) -> list[Event]:
        return _stored(additions, times, results, epoch())

    size = 2 * sum(map(len, words))
    if len(additions) == 1:
        return AppendOnce((b"append_once", *words), decode, size, origin=origin)
    return AppendAll((b"append_all", b"%d" % len(additions), *words), decode, size, origin=origin)


def _stored(additions: Sequence[Addition], times: list[float], results: list[Any], epoch: str) -> list[Event]:
    """Return the events as they are stored.

    A result is the id; with the time where that was changed, and with a 1 behind it for a duplicate.

    Raises:
        Conflict, RateLimited: *results* is a refusal: what it is, the number of the addition that it is for, and
            the head of the log.
    """
    code = results[0]
    if isinstance(code, int) and code < 0:
        refused = additions[results[1] - 1]
        if code == CONFLICT:
            raise head_conflict(refused.event, epoch, results[2])
        raise over_quota(refused.quota)
    stored = []
    for addition, time, result in zip(additions, times, results, strict=True):
        id, date, *duplicate = result if isinstance(result, list) else (result, time)
        stored.append(addition.event.stored_as(id, epoch, float(date), duplicate=bool(duplicate)))
    return stored
