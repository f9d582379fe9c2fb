"""How long clients stay connected: no longer than the credentials that they were admitted by are good."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from math import inf
from typing import Protocol

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from broker.interfaces import IWallClock
from broker.messages import CloseCode, Identity

log = Logger()

WARNING = 30.0  # seconds before the end at which a client is warned; a tenth of what it has, if that is less
MAX_WAIT = 60.0  # seconds after which the time is looked at again: clocks are set
AT_ONCE = 50  # holders that are disconnected at once: 0.1 ms each, and as much when the connection has ended
LOOKED_AT = 100  # holders whose time may have come, which are warned or wait to be disconnected: 0.05 ms each
PAUSE = 0.02  # seconds until the next ones are

End = tuple[int, str]  # the code and the reason of a close frame

HAS_EXPIRED: End = (CloseCode.POLICY_VIOLATION, "credential expired")
WAS_WITHDRAWN: End = (CloseCode.POLICY_VIOLATION, "credential withdrawn")
PERMISSION_WAS_WITHDRAWN: End = (CloseCode.POLICY_VIOLATION, "permission withdrawn")
TOKEN_HAS_EXPIRED: End = (CloseCode.TOKEN_EXPIRED, "token expired")
TOKEN_WAS_REVOKED: End = (CloseCode.TOKEN_REVOKED, "token revoked")


class Holder(Protocol):
    """What is asked of a peer.

    Attributes:
        identity: who it is, and until when.
        admitted: whether it is anybody yet.
        token: the id of the minted token that it lives by, or "".
    """

    identity: Identity
    admitted: bool
    token: str

    def warn(self, seconds: float) -> None:
        """Tell the client that its credential ends in *seconds*, if its dialect has words for that."""

    def renew(self, identity: Identity) -> bool:
        """Go on as *identity*, who it is with the rights of today; False: it has something that it may not have now."""

    def disconnect(self, code: int, reason: str) -> None:
        """Close the client's connection."""


@attrs.define(eq=False)
class Lifetime:
    """What is known of a holder whose time is limited.

    Attributes:
        token: see ``Holder``.
        expires: when it ends, in seconds since the epoch.
        warning: when it is to be warned; 0.0: it was.
        timer: of what comes next.
    """

    token: str
    expires: float
    warning: float
    timer: IDelayedCall | None = None


class Lifetimes:
    """Disconnects clients when their credential expires, is revoked or is not configured any more.

    A credential expires by the wall clock, which may be set: a timer only says when to look at it.
    When it is that of many connections, they are closed a few at a time, so that others are served in between.

    Args:
        clock: starts the timers.
        wall: the time of day, by which credentials expire.
    """

    def __init__(self, clock: IReactorTime, wall: IWallClock) -> None:
        self._clock, self._wall = clock, wall
        self._lifetimes: dict[Holder, Lifetime | None] = {}
        self._tokens: dict[str, dict[Holder, None]] = {}
        self._due: deque[tuple[Holder, Lifetime]] = deque()  # those whose timers have ended
        self._ending: dict[Holder, End] = {}  # those that wait to be disconnected, the first one first
        self._left, self._looks = AT_ONCE, LOOKED_AT
        self._pause: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._lifetimes)

    def __iter__(self) -> Iterator[Holder]:
        return iter(list(self._lifetimes))

    def tokens(self, limit: int) -> list[tuple[str, int, float]]:
        """Return at most *limit* tokens that somebody here lives by: the id, by how many, and when it expires."""
        found = islice(self._tokens.items(), limit)
        return [(token, len(holders), self.expiry(token) or inf) for token, holders in found]

    def expiry(self, token: str) -> float | None:
        """Return when the token with the id *token* expires; None: nobody here lives by it."""
        for holder in self._tokens.get(token, ()):
            lifetime = self._lifetimes.get(holder)
            if lifetime is not None:
                return lifetime.expires
        return None

    def hold(self, holder: Holder) -> None:
        """Disconnect *holder*, which is connected, when its credential ends; this replaces what was held before."""
        self.release(holder)
        expires, token = holder.identity.expires or inf, holder.token
        if expires == inf and not token:
            self._lifetimes[holder] = None
            return
        left = max(0.0, expires - self._wall.time())
        lifetime = self._lifetimes[holder] = Lifetime(token, expires, expires - min(WARNING, left / 10))
        if token:
            self._tokens.setdefault(token, {})[holder] = None
        self._wait(holder, lifetime)

    def release(self, holder: Holder) -> None:
        """Undo ``hold``; a no-op without one."""
        self._ending.pop(holder, None)
        lifetime = self._lifetimes.pop(holder, None)
        if lifetime is None:
            return
        if lifetime.timer is not None and lifetime.timer.active():
            lifetime.timer.cancel()
        if lifetime.token:
            holders = self._tokens[lifetime.token]
            del holders[holder]
            if not holders:
                del self._tokens[lifetime.token]

    def revoke(self, token: str) -> None:
        """Disconnect those who live by the minted token with the id *token*."""
        for holder in list(self._tokens.get(token, ())):
            self._end(holder, TOKEN_WAS_REVOKED)

    def renew(self, renewed: Callable[[Identity], Identity | None]) -> int:
        """Let all have the rights of today.

        Those are disconnected who have lost their credential, or a right to what they have; others do not notice.

        Args:
            renewed: returns an identity with its rights of today, or None when its credential is none any more.

        Returns:
            How many are disconnected.
        """
        ends: list[tuple[Holder, End]] = []
        for holder in list(self._lifetimes):
            if not holder.admitted:
                continue
            identity = renewed(holder.identity)
            if identity is None:
                ends.append((holder, TOKEN_WAS_REVOKED if holder.token else WAS_WITHDRAWN))
            elif not holder.renew(identity):
                ends.append((holder, PERMISSION_WAS_WITHDRAWN))
        for holder, end in ends:
            self._end(holder, end)
        return len(ends)

    def stop(self) -> None:
        """Forget all holders."""
        for holder in list(self._lifetimes):
            self.release(holder)
        self._ending.clear()
        self._due.clear()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def _wait(self, holder: Holder, lifetime: Lifetime) -> None:
        left = (lifetime.warning or lifetime.expires) - self._wall.time()
        lifetime.timer = self._clock.callLater(min(max(0.0, left), MAX_WAIT), self._look_soon, holder, lifetime)

    def _look_soon(self, holder: Holder, lifetime: Lifetime) -> None:
        self._due.append((holder, lifetime))
        self._look_at_due()

    def _look_at_due(self) -> None:
        """Look at those whose timers have ended, at most ``LOOKED_AT`` in each ``PAUSE``."""
        while self._due and self._looks:
            self._looks -= 1
            holder, lifetime = self._due.popleft()
            if self._lifetimes.get(holder) is lifetime:
                self._look(holder, lifetime)
        self._begin_pause()

    def _look(self, holder: Holder, lifetime: Lifetime) -> None:
        """Warn *holder* or disconnect it, if the time for that has come."""
        now = self._wall.time()
        if now >= lifetime.expires:
            self._end(holder, TOKEN_HAS_EXPIRED if lifetime.token else HAS_EXPIRED)
            return
        if lifetime.warning and now >= lifetime.warning:
            lifetime.warning = 0.0
            holder.warn(lifetime.expires - now)
        if self._lifetimes.get(holder) is lifetime:  # the warning has not ended it
            self._wait(holder, lifetime)

    def _end(self, holder: Holder, end: End) -> None:
        self.release(holder)
        self._ending[holder] = end
        self._disconnect()

    def _disconnect(self) -> None:
        """Disconnect those that have to be, at most ``AT_ONCE`` in each ``PAUSE``."""
        while self._ending and self._left:
            self._left -= 1
            holder = next(iter(self._ending))
            end = self._ending.pop(holder)
            try:
                holder.disconnect(*end)
            except Exception:
                log.failure("a client could not be disconnected")
        self._begin_pause()

    def _begin_pause(self) -> None:
        if self._pause is None:
            self._pause = self._clock.callLater(PAUSE, self._resume)

    def _resume(self) -> None:
        self._pause, self._left, self._looks = None, AT_ONCE, LOOKED_AT
        if self._ending:
            self._disconnect()
        if self._due:
            self._look_at_due()
