"""What is different between two settings, and what a part of the daemon makes of that without a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import attrs

from broker.config.options import options_of
from broker.config.own import own_prefix
from broker.config.settings import ENV_PREFIX, Settings


@attrs.frozen
class Change:
    """What a part will do when every other part can do the same.

    Attributes:
        what: names of settings, or other words, that the log says are different; "" for nothing to be told.
        commit: does it, and must not fail; text that it returns stands behind *what* in the log.
    """

    what: str
    commit: Callable[[], object]


class Reloadable(Protocol):
    """A part of the daemon that takes up other settings, or files that have changed, while it runs."""

    @property
    def names(self) -> Sequence[str]:
        """The attributes of ``Settings`` that it takes up; of the others, a change needs a restart."""

    def prepare(self, settings: Settings) -> Change | None:
        """Read all that *settings* name and check it, and change nothing yet; None: nothing is different.

        Raises:
            SettingsError, BrokerError, ValueError, OSError: it can not be used; says why.
        """


def variable(attribute: str) -> str:
    """Return the environment variable of the *attribute* of ``Settings``."""
    return ENV_PREFIX + attribute.upper()


def different(one: Settings, other: Settings) -> list[str]:
    """Return the environment variables of the settings in which *one* and *other* differ."""
    before, after = dict(_values(one)), dict(_values(other))
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def _values(settings: Settings) -> Iterator[tuple[str, Any]]:
    for attribute in options_of(Settings):
        yield variable(attribute), getattr(settings, attribute)
    for dialect, own in settings.own.items():
        for attribute in options_of(type(own)):
            yield own_prefix(ENV_PREFIX, dialect) + attribute.upper(), getattr(own, attribute)
