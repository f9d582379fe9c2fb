"""What every verb begins with: who the client is, and whether it may."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from broker.access.principals import Bucket
from broker.core.calls import Call
from broker.core.keys import TOPIC, Predicate
from broker.errors import Denied, Gone, RateLimited, Unauthenticated
from broker.interfaces import ISession
from broker.messages import Identity
from broker.patterns import check_name

if TYPE_CHECKING:
    from broker.core.service import Broker

RESERVED = "broker."  # names of the broker itself
HIDDEN = "broker.control."  # topics by which nodes speak to each other

# Every request of an HTTP client makes a peer: the shape of a UUID without its price.
_ID_PREFIX = str(uuid4())[:24]
_ids = count(1)


def _session_id() -> str:
    return f"{_ID_PREFIX}{next(_ids):012x}"


@attrs.define(eq=False)
class Gate:
    """One client as far as every verb needs to know it.

    Attributes:
        id: the session id; other clients may learn it, it is no credential.
        dialect: the dialect it speaks.
        address: where it comes from.
        identity: who it is.
        admitted: whether it may do anything yet.
        named: the client id it took, where its credential names nobody.
        member: whose memberships it has, or "".
        session: its ``ISession``, once bound.
        closed: whether it has left.
        calling, serving: the calls it has made, and those it has to answer.
    """

    broker: Broker = attrs.field(repr=False)
    dialect: str
    address: str
    identity: Identity
    admitted: bool
    _verbs: dict[str, int] = attrs.field(repr=False)
    _bucket: Bucket | None = None
    id: str = attrs.field(factory=_session_id)
    named: str = ""
    member: str = ""
    session: ISession | None = None
    closed: bool = False
    calling: dict[str, Call] = attrs.field(factory=dict, repr=False)
    serving: dict[str, Call] = attrs.field(factory=dict, repr=False)
    _topics: dict[tuple[str, bool], bool] | None = None
    _disconnect: Callable[[int, str], object] | None = attrs.field(default=None, repr=False)
    _tries: int = 0
    _token_taken: bool = False

    @property
    def client(self) -> str:
        """Its client id: of the credential, else the name it took, else the session id."""
        return self.identity.name or self.named or self.id

    @property
    def clock(self) -> IReactorTime:
        """The broker's time."""
        return self.broker.clock

    def pace(self) -> None:
        """Count a frame against the rate before it is looked at; its one verb is then free.

        Raises:
            RateLimited: there were too many.
        """
        if self._bucket is not None:
            self._token_taken = False
            self._take_token()
            self._token_taken = True

    def take_one_token(self) -> None:
        """Count all that this peer does from now on once against the rate: it makes one HTTP request.

        Raises:
            RateLimited: there were too many.
        """
        if self._bucket is not None:
            self._take_token()
            self._bucket = None

    @property
    def epoch(self) -> str:
        """Changes when the store was wiped: then ids and positions of before mean nothing."""
        return self.broker.store.epoch

    def _take_token(self) -> None:
        if self._token_taken:
            self._token_taken = False
        elif not self._bucket.take():  # type: ignore[union-attr]
            self.broker.metrics.rate_limited += 1
            raise RateLimited("limit", "rate")

    def _allow(self, verb: str, name: str, *, rate_limited: bool = True, check_permission: bool = True) -> None:
        """Let the client *verb* with *name*, or raise: the one gate.

        Args:
            verb: what it wants to do.
            name: with what.
            rate_limited: whether that counts against its rate.
            check_permission: whether it needs a permission for *name*; otherwise the
                caller looks after the permission for each name it comes across.
        """
        self._verbs[verb] += 1
        if rate_limited and self._bucket is not None:
            self._take_token()
        if not self.admitted:
            raise Unauthenticated(verb)
        grants = self.identity.grants
        if check_permission and grants is not None and verb != "identify" and not grants.may(verb, name):
            raise Denied(verb, name)
        if self.closed:
            raise Gone("lost", name)

    @staticmethod
    def _own(verb: str, name: str) -> None:
        """Refuse to *verb* names of the broker itself and those that name nothing."""
        check_name(name)
        if name.startswith(RESERVED):
            raise Denied(verb, name)

    @staticmethod
    def _shown(topic: str) -> str:
        """Return *topic* if clients may know what was stored of it."""
        if topic.startswith(HIDDEN):
            raise Denied("read", topic)
        return check_name(topic)

    def _may(self, verb: str, predicate: Predicate | None = None) -> Predicate | None:
        """Return which keys it may *verb*, of those that *predicate* says yes to; None: all."""
        grants = self.identity.grants
        if grants is None:
            return predicate
        if predicate is None:
            return lambda key: grants.may(verb, TOPIC + key)
        return lambda key: predicate(key) and grants.may(verb, TOPIC + key)

    def ignore(self) -> None:
        """Count a message that asked for nothing."""
        self._verbs["ignore"] += 1

    def about(self) -> dict[str, Any]:
        """Return what the daemon is; no secrets."""
        self._verbs["about"] += 1
        return self.broker.about()

    def pause(self, seconds: float) -> Deferred[None]:
        """Fire in *seconds*."""
        return deferLater(self.broker.clock, seconds)
