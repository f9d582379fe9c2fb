"""What the broker logs while a test goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer


@contextmanager
def logging(least: object = LogLevel.debug) -> Iterator[list[LogEvent]]:
    """Give our own events that are logged meanwhile, those of *least* and above, as a list that grows.

    What an earlier test has left behind may be logged by Twisted at any time.
    """
    events: list[LogEvent] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        ours = str(event.get("log_namespace", "")).startswith(("broker.", "protocols."))
        if ours and event["log_level"] >= least:
            events.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        yield events
    finally:
        globalLogPublisher.removeObserver(observe)


def lines_of(events: list[LogEvent]) -> list[str]:
    """Return *events* as an operator reads them."""
    return [formatEvent(event) or "" for event in events]


def failures_of(events: list[LogEvent]) -> list[BaseException]:
    """Return the exceptions that *events* tell of."""
    return [event["log_failure"].value for event in events if "log_failure" in event]
