"""What a dialect may declare of its own: settings and metrics.

Its settings are environment variables ``TXBROKER_<NAME>_…``, read, checked and told like those of the broker::

    @attrs.frozen
    class WeatherSettings:
        station: str = option(TEXT, "LFPG", "Where the weather is asked for.")
        every_seconds: float = option(SECONDS, 60.0, "How often.")


    @with_settings("weather", WeatherSettings)
    def dialect(settings, own):
        return Weather(own.station, own.every_seconds)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias, TypeVar

import attrs

from broker.config.options import ENDPOINTS, option, options_of

S = TypeVar("S")
D = TypeVar("D")

ATTRIBUTE = "own_settings"  # of a factory of dialects


@attrs.frozen
class OwnSettings:
    """The settings of one dialect.

    Attributes:
        name: of the dialect.
        kind: the attrs class whose fields are made by ``config.options.option``.
    """

    name: str
    kind: type


def with_settings(name: str, kind: type[S]) -> Callable[[Callable[[Any, S], D]], Callable[..., D]]:
    """Let the decorated factory be called with the settings of the daemon and its own, of the class *kind*.

    Where the daemon has read none, as in a test, they have their defaults; a test may also give them as a second
    argument.

    Args:
        name: of the dialect; the variables begin with ``TXBROKER_<NAME>_``, in which "-" is "_".
        kind: an attrs class whose fields are made by ``option``.
    """
    options_of(kind)  # what is no such class is told by whoever imports the dialect

    def decorate(factory: Callable[[Any, S], D]) -> Callable[..., D]:
        def make(settings: Any, own: S | None = None) -> D:
            if own is None:
                own = getattr(settings, "own", {}).get(name)
            return factory(settings, kind() if own is None else own)

        setattr(make, ATTRIBUTE, OwnSettings(name, kind))
        return make

    return decorate


def listen_option(port: int) -> Any:
    """Return the field ``listen`` of the settings of a stream dialect; by default *port*, for this machine alone."""
    return option(
        ENDPOINTS,
        (f"tcp:{port}:interface=127.0.0.1",),
        "Twisted endpoint strings, several separated by ``;``: ``tcp:``, ``ssl:``, ``unix:``, ``systemd:``; "
        "``none`` for nowhere.",
    )


def listen_settings(port: int) -> type:
    """Return a class of settings for a stream dialect that has no others than ``listen``; *port* as above."""
    return attrs.make_class("ListenSettings", {"listen": listen_option(port)}, frozen=True)


@attrs.define(eq=False)
class Counter:
    """A metric that only rises: ``txbroker_<dialect>_<name>_total``.

    Attributes:
        name: what it counts, in lower case, with its unit: "lines", "received_bytes".
        help: a sentence.
        value: of the metric; add to it.
    """

    rises: ClassVar[bool] = True

    name: str
    help: str
    value: float = 0

    def read(self) -> float:
        """Return its value."""
        return self.value


@attrs.define(eq=False)
class Gauge:
    """A metric that rises and falls: ``txbroker_<dialect>_<name>``.

    Attributes:
        name: as that of a ``Counter``.
        help: a sentence.
        value: of the metric, or a function that returns it.
    """

    rises: ClassVar[bool] = False

    name: str
    help: str
    value: float | Callable[[], float] = 0

    def read(self) -> float:
        """Return its value."""
        return self.value() if callable(self.value) else self.value


OwnMetric: TypeAlias = Counter | Gauge
