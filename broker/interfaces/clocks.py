"""The time of day."""

from __future__ import annotations

from collections.abc import Callable

from zope.interface import Attribute, Interface


class IWallClock(Interface):
    """The time of day, for dates: of events, of ends that are stored, of credentials.

    It can be set at any moment, forward or back.  How long something takes, and when it is due, is
    asked of the monotonic clock of an ``IReactorTime`` instead, whose ``seconds`` are no date.
    """

    time: Callable[[], float] = Attribute("Returns the seconds since 1970.")
