"""The log of refusals: who was refused what, and which setting would change that."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, deque
from typing import NamedTuple, Protocol

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from broker.access.limits import Bucket, network_of

log = Logger()

INTERVAL = 60.0  # seconds between two lines about the same thing, unless the address has lines left
LINES_PER_MINUTE, LINES_AT_ONCE = 10, 10  # of one address besides those
ALL_PER_MINUTE, ALL_AT_ONCE = 3000, 1000  # of all addresses together
MAX_ADDRESSES = 2000  # that are remembered
MAX_KINDS = 100  # of refusals of one address that are remembered
MAX_RECENT = 500  # refusals that operators can look at
MAX_NAME = 100  # characters of a name in a line


class Counts(Protocol):
    """What is counted here; ``broker.observe.metrics.Metrics`` has it."""

    refusals: Counter[tuple[str, str]]
    refusals_not_logged: int


@attrs.define(eq=False)
class AddressLines:
    """The lines that one address has had lately."""

    bucket: Bucket
    logged: dict[tuple[str, ...], float] = attrs.field(factory=dict)  # when each kind was logged last
    skipped: int = 0


class Refusal(
    NamedTuple
):  # made for each refusal, however many there are: a frozen attrs class takes five times as long
    """One refusal: when, by the monotonic clock, and the arguments of ``RefusalLog.add``."""

    time: float
    dialect: str
    address: str
    principal: str
    verb: str
    code: str
    setting: str
    name: str


class RefusalLog:
    """Writes a line for each refusal of a credential, a permission or a rate.

    A line begins ``<dialect> refused <address>: <code> for <principal> at <verb>``, whatever
    a client has said, so that a program can find out whom to ban.  It has no credential.

    An address gets a line for each kind of refusal, and a few more, every minute; what is not
    logged is counted in its next line and in the metrics.

    Attributes:
        recent: the last refusals, the newest one last; for operators.

    Args:
        clock: gives the time.
        counts: where refusals are counted.
    """

    def __init__(self, clock: IReactorTime, counts: Counts) -> None:
        self.recent: deque[Refusal] = deque(maxlen=MAX_RECENT)
        self._clock, self._counts = clock, counts
        self._all = Bucket(clock, ALL_PER_MINUTE / 60, ALL_AT_ONCE)
        self._addresses: OrderedDict[str, AddressLines] = OrderedDict()

    def add(
        self,
        dialect: str,
        address: str,
        principal: str,
        verb: str,
        code: str,
        setting: str,
        name: str = "",
        *,
        note: str = "",
    ) -> None:
        """Count a refusal, and log it if its address has lines left.

        Args:
            dialect: by which the client came.
            address: where it comes from.
            principal: who it is, as far as it is known.
            verb: what it may not do; "identify" where its credential is wrong.
            code: that of the error which it gets.
            setting: the one to change, or "".
            name: with which it may not do it; no credential.
            note: what else there is to say, for the end of the line.
        """
        self._counts.refusals[dialect, code] += 1
        name = name[:MAX_NAME]
        self.recent.append(Refusal(self._clock.seconds(), dialect, address, principal, verb, code, setting, name))
        lines = self._of(network_of(address))
        if not self._may_log(lines, (dialect, principal, verb, code)):
            lines.skipped += 1
            self._counts.refusals_not_logged += 1
            return
        text = "{dialect} refused {address}: {code} for {principal} at {verb}"
        fields = {"name": json.dumps(name)} if name else {}
        if name:
            text += " of {name}"
        if setting:
            text += "; see {setting}"
        if note:
            text += "; {note}"
            fields["note"] = note
        if lines.skipped:
            text += " ({skipped} more were not logged)"
        skipped, lines.skipped = lines.skipped, 0
        log.warn(
            text,
            dialect=dialect,
            address=address or "unix",
            principal=principal,
            verb=verb,
            code=code,
            setting=setting,
            skipped=skipped,
            **fields,
        )

    def _of(self, network: str) -> AddressLines:
        lines = self._addresses.get(network)
        if lines is None:
            bucket = Bucket(self._clock, LINES_PER_MINUTE / 60, LINES_AT_ONCE)
            lines = self._addresses[network] = AddressLines(bucket)
            if len(self._addresses) > MAX_ADDRESSES:
                self._addresses.popitem(last=False)
        else:
            self._addresses.move_to_end(network)
        return lines

    def _may_log(self, lines: AddressLines, kind: tuple[str, ...]) -> bool:
        now = self._clock.seconds()
        last = lines.logged.get(kind)
        is_new = last is None or now - last >= INTERVAL
        if not (is_new or lines.bucket.take_token()) or not self._all.take_token():
            return False
        if len(lines.logged) >= MAX_KINDS and kind not in lines.logged:
            lines.logged.clear()
        lines.logged[kind] = now
        return True
