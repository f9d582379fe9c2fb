"""Times as options of commands have them."""

from __future__ import annotations

import re
from typing import Any

import click

from broker.config.options import UNITS

DURATION = re.compile(r"(\d+(?:\.\d+)?)([dhms]?)")
MAX_SECONDS = 10 * 366 * 86400.0


class Duration(click.ParamType):  # type: ignore[type-arg]  # older ones of click have none
    """A time such as 90s, 30m, 12h or 7d; without a unit, seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        if isinstance(value, float):
            return value
        found = DURATION.fullmatch(value)
        seconds = float(found[1]) * UNITS[found[2] or "s"] if found else 0.0
        if not 0 < seconds <= MAX_SECONDS:
            self.fail("expected a time such as 90s, 30m, 12h or 7d", param, ctx)
        return seconds
