"""Calls and streamed requests."""

from __future__ import annotations

from collections.abc import Iterable

from zope.interface import Interface

from broker.errors import BrokerError
from broker.interfaces.coroutines import Coro
from broker.messages import Request


class ICallVerbs(Interface):
    """To call, and to answer calls."""

    def perform(
        names: Iterable[str],
        *,
        shared: bool = False,
        as_service: bool = False,
        takeover: bool = False,
        least_busy: bool = False,
        max_in_flight: int = 0,
        queue: int = 0,
    ) -> Coro[None]:
        """Get the calls of *names*, all of them or none, by ``ISession.request``.

        Args:
            names: procedures, or services when *as_service*: a service has every
                procedure that begins with its name and a dot.
            shared: each call goes to one of those that share the name, round-robin.
            as_service: see *names*.
            takeover: probe a present holder, and replace it when it does not respond in time.
            least_busy: each call goes to who has the fewest requests to answer, of those that share the name.
            max_in_flight: how many calls of each of the names this peer may have at once; 0: any number.
                One that has ended for its caller does not count, whether or not it was answered.
            queue: how many more calls may wait for that; callers get ``Busy`` when the queues of all who
                perform it are full.

        What a peer performs already it performs on the new terms.

        Raises:
            Taken: somebody else performs one of them, alone or not *least_busy* as this one.
            Invalid: it is one that performs services, or alone, on terms that are not for these; or *queue*
                is too large, or is for what never waits.
            RateLimited: it has too many registrations.
        """

    def release(name: str, *, as_service: bool = False) -> bool:
        """Undo ``perform`` of *name*; say whether it performed it."""

    def procedures() -> list[str]:
        """Return every procedure and service of this node that the client may call, sorted.

        With many of them this takes long: ``matching_procedures`` lets others have their turn meanwhile.
        """

    def matching_procedures(pattern: str, limit: int = 10_000) -> Coro[list[str]]:
        """Return those of ``procedures`` that *pattern* matches, or that it names; the first *limit* of them.

        Raises:
            Invalid: *pattern* is neither a name nor a pattern.
        """

    def call(ref: str, request: Request, *, quiet: bool = False, service: str = "") -> None:
        """Call ``request.procedure``; its one end comes to ``ISession.reply`` with *ref*.

        ``request.recipient`` narrows it to one client or session; ``timeout``
        bounds it, and with *quiet* the deadline ends it without a reply.  With
        *service*, that one takes it before anybody who performs the procedure.
        The broker sets ``id``, ``service``, ``method``, ``caller`` and ``dialect``.

        Raises:
            NotFound: nobody performs it, or not the recipient.
            Gone: the recipient is not connected.
            RateLimited: too many calls are waiting.
            Busy: who performs it has as many as it takes; see ``perform``.
            BrokerError: the callee refuses it.
        """

    def cancel(ref: str) -> None:
        """End its calls and streamed requests that it has made with *ref*: the callees are told.

        Each ends with ``Cancelled``.

        Raises:
            NotFound: none is under way.
        """

    def answer(
        id: str,
        body: bytes,
        error: BrokerError | None = None,
        *,
        time: float = 0.0,
        attachments: tuple[bytes, ...] = (),
    ) -> bool:
        """Answer request *id* with *body* or *error*; say whether it was still awaited.

        Needs no permission: that the request was sent here is the permission.
        """

    def request(ref: str, request: Request, topic: str = "") -> None:
        """Send a streamed request; each answer comes to ``ISession.reply`` with *ref*.

        It goes to ``request.recipient`` when there is one, else to a taker of
        *topic*, else to one of "*".

        Raises:
            Gone: the recipient is not connected.
            NotFound: nobody takes it.
        """

    def acknowledge(topic: str) -> None:
        """Take streamed requests of *topic*, round-robin with others; "*" takes any other.

        Raises:
            RateLimited: it has too many registrations.
        """

    def unacknowledge(topic: str) -> None:
        """Undo ``acknowledge``; a no-op without one."""
