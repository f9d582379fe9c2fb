"""Who a client is: credentials, client ids and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import Interface

from broker.interfaces.coroutines import Coro
from broker.messages import Entry, Identity


class ICredentialVerbs(Interface):
    """To prove who a client is, and to note what is known of it."""

    def identify(credential: object) -> Identity:
        """Become who shows *credential*: the text of a secret, an API key or a JSON web token.

        The same principal may show another one, which then says when it ends.

        Raises:
            Unauthenticated: it is missing or wrong.
            Denied: this session is somebody else already, or has a role that the new credential lacks.
            RateLimited: too many tries, the dialect may close; or too many wrong credentials came from
                its address, so that this one was not looked at.
        """

    def admit(identity: Identity) -> None:
        """Become *identity*, which the dialect itself has verified."""

    def take_name(name: str) -> Coro[None]:
        """Take *name* as client id, where the credential names nobody or lets it ``act`` as that one; once.

        That needs a credential wherever clients may show one.

        Raises:
            Denied: it has another name already, or *name* belongs to another
                principal, to the broker or to a session.
        """

    def act_as(client: str) -> Deferred[None] | None:
        """See whether the peer may use the client id *client* in what it does next; None: it may, and need not wait.

        An id belongs to the principal that first used it, for as long as something is kept
        under it.  The verbs that take one see to that themselves: this is for a dialect
        that has to refuse early.

        Raises:
            Denied: it is reserved or another's, and the permissions do not let this one ``act`` as that.
        """

    def note(name: str, value: bytes, seconds: float, *, revision: int | None = None) -> Deferred[Entry]:
        """Keep *value* under *name* for *seconds*, for this dialect at all nodes to look up: see ``noted``.

        Each principal has its own, up to 100,000 of them.  *revision* as in ``IStore.set``: 0 if there must be none.

        Raises:
            Conflict: *revision* was given, and it is another one.
        """

    def noted(name: str) -> Deferred[Entry | None]:
        """Return what was noted for the principal under *name*, if it is still there."""

    def forget_note(name: str, *, revision: int | None = None) -> Deferred[bool]:
        """Undo ``note``; say whether it was there.

        Raises:
            Conflict: *revision* was given, and it is another one.
        """

    def mint(claims: Mapping[str, Any], seconds: float) -> Coro[str]:
        """Return a token that speaks for this peer's identity for *seconds*; see ``present``.

        It ends with the credential of the peer, if that is sooner, and when the key of that is replaced.
        *claims* are JSON values; whoever has the token can read them.
        """

    def present(token: str) -> Coro[Mapping[str, Any]]:
        """Become the one whom *token* speaks for; return its claims.

        When it expires or is revoked, the connection is closed with 4001 or 4003.

        Raises:
            Unauthenticated: it is not one of ours, has expired or was revoked.
            RateLimited: too many wrong credentials came from its address.
        """

    def revoke(token: str) -> Coro[str]:
        """Revoke *token*, and close the connections that live by it, on every node; return its id.

        Raises:
            Unauthenticated: it is not one of ours.
        """
