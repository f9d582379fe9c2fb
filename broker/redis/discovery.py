"""Asks Sentinels where a master is, and says why that is not known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

DISCOVERY_TIMEOUT = 3.0  # seconds for the Sentinels to name the master


class NoMaster(Exception):
    """No server was found that is the master; the message says why."""


class Discovery:
    """Asks Sentinels where a master is.

    Args:
        name: by which they know it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._found: Deferred[tuple[str, int]] = Deferred()
        self._missing = 0  # answers
        self._errors: list[str] = []
        self._down = False  # whether a Sentinel says so of the master
        self._others: set[str] = set()  # names that Sentinels know, who do not know this one

    async def ask(self, sentinels: Sequence[Any], clock: IReactorTime) -> tuple[str, int]:
        """Return host and port of the master, as the first of *sentinels* says that knows one which is up.

        Raises:
            NoMaster: none has said so, of all, or in time.
        """
        self._missing = len(sentinels)
        for sentinel in sentinels:
            sentinel.sentinel_masters().addCallbacks(self._answered, self._failed).addBoth(self._counted)
        self._found.addTimeout(DISCOVERY_TIMEOUT, clock)
        try:
            return await self._found
        except DeferredTimeout:
            raise NoMaster(self._reason()) from None

    def _answered(self, masters: dict[str, dict[str, Any]]) -> None:
        state = masters.get(self._name)
        if state is None:
            self._others.update(masters or [""])
        elif not state["is_master"] or state["is_sdown"] or state["is_odown"]:
            self._down = True
        elif not self._found.called:
            self._found.callback((state["ip"], int(state["port"])))

    def _failed(self, failure: Failure) -> None:
        self._errors.append(failure.getErrorMessage())

    def _counted(self, result: object) -> object:
        self._missing -= 1
        if not self._missing and not self._found.called:
            self._found.errback(NoMaster(self._reason()))
        return result

    def _reason(self) -> str:
        if self._down:
            return f"the Sentinels say that the master {self._name!r} is down"
        if self._others:
            known = ", ".join(map(repr, sorted(self._others - {""}))) or "none"
            return f"the Sentinels know no master {self._name!r}: they know {known}"
        errors = f": {'; '.join(sorted(set(self._errors)))}" if self._errors else ""
        return f"no Sentinel answers{errors}"
