"""What a dialect may have besides its interface, with the defaults."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
from attrs.validators import deep_iterable, instance_of, is_callable
from zope.interface import implementer

from broker.interfaces import IDialectExtras, IPeer
from broker.messages import HttpRequest, Response
from broker.plugins import Counter, Gauge, OwnMetric

Refusal = Callable[[int, str, HttpRequest], Response | None]


def _no_refusal(status: int, message: str, request: HttpRequest) -> Response | None:
    return None


def _no_drain() -> None:
    return None


def _no_start(peer: IPeer) -> Awaitable[object] | None:
    return None


def _no_stop() -> Awaitable[object] | None:
    return None


@implementer(IDialectExtras)
@attrs.frozen
class DialectExtras:
    """The optional attributes of one dialect; the only place where they are read."""

    example: str = attrs.field(default="", validator=instance_of(str))
    any_origin: bool = attrs.field(default=False, validator=instance_of(bool))
    refusal_delay: float = attrs.field(default=0.0, validator=instance_of((int, float)))
    half_close: bool = attrs.field(default=True, validator=instance_of(bool))
    comes_back: bool = attrs.field(default=False, validator=instance_of(bool))
    refusal: Refusal = attrs.field(default=_no_refusal, validator=is_callable())
    drain: Callable[[], None] = attrs.field(default=_no_drain, validator=is_callable())
    start: Callable[[IPeer], Awaitable[object] | None] = attrs.field(default=_no_start, validator=is_callable())
    stop: Callable[[], Awaitable[object] | None] = attrs.field(default=_no_stop, validator=is_callable())
    metrics: Sequence[OwnMetric] = attrs.field(
        default=(), validator=deep_iterable(instance_of((Counter, Gauge)), instance_of((tuple, list)))
    )

    @classmethod
    def of(cls, dialect: Any) -> DialectExtras:
        """Return those of *dialect*, with the defaults for what it has not.

        Raises:
            ValueError: one of them is of the wrong type.
        """
        names = [field.name for field in attrs.fields(cls)]
        found = {name: getattr(dialect, name) for name in names if hasattr(dialect, name)}
        try:
            return cls(**found)
        except TypeError as error:
            raise ValueError(f"{dialect.name}: {error.args[0]}") from None
