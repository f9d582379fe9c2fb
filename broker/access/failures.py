"""How often wrong credentials may be shown: guessing takes too long to succeed."""

from __future__ import annotations

from collections import OrderedDict

import attrs
from twisted.internet.interfaces import IReactorTime

from broker.access.limits import network_of
from broker.access.refusals import RefusalLog
from broker.errors import RateLimited

WINDOW = 60.0  # seconds, from the first failure on
MAX_ADDRESSES = 10000  # that are remembered
SETTING = "TXBROKER_AUTH_FAILURES_PER_MINUTE"
MISSING = "TXBROKER_AUTH"  # what a line about a credential that is missing names
NO_GUESS = "not counted as a guess"  # in a line, so that nobody is banned for a token that has expired


@attrs.define
class Failures:
    """The failures of one address since ``begin``."""

    begin: float
    number: int = 0


class AuthFailures:
    """Counts wrong credentials by address; after too many, none is looked at until the minute is over.

    Whoever looks at a credential calls ``check`` before, and ``count`` when it is wrong.  A right one
    changes nothing: it must not buy further guesses.  The addresses of an IPv6 /64 count as
    one, those of a trusted proxy's clients by themselves, and clients of a unix
    socket, which have none (""), are not limited.

    Attributes:
        addresses: the failures of each that had any; while there are none, ``check`` can be left out.

    Args:
        clock: gives the time.
        limit: wrong credentials of one address in a minute; 0: any number.
        refusals: where it is logged.
    """

    def __init__(self, clock: IReactorTime, limit: int, refusals: RefusalLog) -> None:
        self._clock, self._limit, self._refusals = clock, limit, refusals
        self.addresses: OrderedDict[str, Failures] = OrderedDict()  # in the order of their begin

    def check(self, dialect: str, address: str, principal: str = "anonymous") -> None:
        """Check that a credential from *address* may be looked at.

        Raises:
            RateLimited: there were too many wrong ones; ``retry_after`` says how long that lasts.
        """
        failures = self.addresses.get(network_of(address))
        if failures is None or failures.number < self._limit:
            return
        left = failures.begin + WINDOW - self._clock.seconds()
        if left > 0:
            self._refusals.add(dialect, address, principal, "identify", RateLimited.code, SETTING)
            raise RateLimited("limit", "auth", retry_after=left)

    def count(
        self,
        dialect: str,
        address: str,
        setting: str,
        principal: str = "anonymous",
        *,
        guessed: bool = True,
        why: str = "",
    ) -> None:
        """Count and log a wrong credential of *address*.

        One that was not *guessed* is only logged: it is missing or was good once, or there is none that would be right.
        *setting* is what the operator could change, and *why* what is wrong with a token that was issued to somebody.
        """
        note = "" if guessed or setting == MISSING else f"{NO_GUESS}: {why}" if why else NO_GUESS
        self._refusals.add(dialect, address, principal, "identify", "UNAUTHENTICATED", setting, note=note)
        if self._limit and address and guessed:
            self._of(network_of(address)).number += 1

    def _of(self, network: str) -> Failures:
        now = self._clock.seconds()
        failures = self.addresses.get(network)
        if failures is None or now - failures.begin >= WINDOW:
            self.addresses.pop(network, None)
            failures = self.addresses[network] = Failures(now)
            if len(self.addresses) > MAX_ADDRESSES:
                self.addresses.popitem(last=False)
        return failures
