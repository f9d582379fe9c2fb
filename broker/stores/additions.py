"""What becomes of events that are appended under conditions: the same in every store but Redis, whose script decides.

All is decided before anything is written, so that nothing has to be undone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from broker.errors import Conflict
from broker.messages import Addition, Event, Quota
from broker.stores.room import check_quota

First: TypeAlias = tuple[int, float]  # id and time of the event that a log has got by a key

_encode = msgspec.json.Encoder().encode


def head_conflict(event: Event, epoch: str, head: int) -> Conflict:
    """Return the refusal of *event*, whose log has the last id *head*: another than is expected."""
    position = _encode({"topic": event.topic, "epoch": epoch, "id": head})
    return Conflict("head", str(head), data=position)


def repeated(event: Event, epoch: str, first: First) -> Event:
    """Return *event* as a duplicate of the *first* one."""
    id, time = first
    return event.stored_as(id, epoch, time, duplicate=True)


class Plan:
    """Decides for each of several additions whether it is stored, as if those before it were.

    Args:
        epoch: of the store.
        head: returns the last id of a log, and whether there is such a log.
        first: returns what a log has got by a key that counts still, or None.
        count: returns how much counts for the account of a quota.
    """

    def __init__(
        self,
        epoch: str,
        head: Callable[[str], tuple[int, bool]],
        first: Callable[[str, str], First | None],
        count: Callable[[Quota], int],
    ) -> None:
        self._epoch, self._head, self._first, self._count = epoch, head, first, count
        self._heads: dict[str, int] = {}
        self._keys: dict[tuple[str, str], int] = {}
        self._opened: Counter[str] = Counter()  # logs that are begun, by account

    def decide(self, additions: Sequence[Addition]) -> list[First | int | None]:
        """Return for each what it repeats: an event of before, or that with this index; None: it is new.

        Raises:
            Conflict: one does not follow the head that it expects.
            RateLimited: they begin more logs than a quota allows.
        """
        return [self._decide(index, addition) for index, addition in enumerate(additions)]

    def _decide(self, index: int, addition: Addition) -> First | int | None:
        log, name = addition.log, (addition.log, addition.key)
        if addition.key:
            before = self._keys.get(name, self._first(*name))
            if before is not None:
                return before
            self._keys[name] = index
        head = self._heads.get(log)
        if head is None:
            head, exists = self._head(log)
            if not exists:
                self._open(addition.quota)
        if addition.head is not None and addition.head != head:
            raise head_conflict(addition.event, self._epoch, head)
        self._heads[log] = head + 1
        return None

    def _open(self, quota: Quota | None) -> None:
        if quota is not None:
            check_quota(quota, self._count(quota) + self._opened[quota.account])
            self._opened[quota.account] += 1


def add_all(
    additions: Sequence[Addition],
    decisions: Sequence[First | int | None],
    epoch: str,
    add: Callable[[Addition], Event],
) -> list[Event]:
    """Return the result for each of *additions*, as was decided; *add* stores those that are new."""
    results: list[Event] = []
    for addition, decision in zip(additions, decisions, strict=True):
        if decision is None:
            results.append(add(addition))
            continue
        if isinstance(decision, int):
            event = results[decision]
            decision = event.id, event.time
        results.append(repeated(addition.event, epoch, decision))
    return results
