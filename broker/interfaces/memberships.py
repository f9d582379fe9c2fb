"""Stored subscriptions."""

from __future__ import annotations

from zope.interface import Interface

from broker.interfaces.coroutines import Coro


class IMembershipVerbs(Interface):
    """Subscriptions that outlive the connection: a member has them again when it comes back."""

    def become(member: str) -> Coro[list[str]]:
        """Have the memberships of *member* from now on; return their topics.

        A member belongs to the principal that first was it, as a client id does.

        What was joined before is left, in this session only, if that was as
        another member; if it was as nobody, those become memberships too.
        """

    def join(topic: str, *, rate_limited: bool = True) -> Coro[None]:
        """Subscribe to the plain name *topic*, own events included; a member's is stored.

        *rate_limited* is false where the frame has been counted by another verb, such as ``become``.

        Raises:
            RateLimited: it has joined too many.
        """

    def part(topic: str, *, rate_limited: bool = True) -> Coro[None]:
        """Unsubscribe from *topic*, in every session of the member, and forget the membership.

        *rate_limited* as for ``join``.
        """

    def part_all() -> None:
        """Unsubscribe from everything, in this session; stored memberships stay."""

    def joined(topic: str) -> bool:
        """Whether it is subscribed to the plain name *topic*."""
