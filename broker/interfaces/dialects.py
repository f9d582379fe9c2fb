"""The wire protocols, each a plugin."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from zope.interface import Attribute, Interface

from broker.interfaces.links import ILink
from broker.interfaces.peer import IPeer
from broker.interfaces.sessions import ISession
from broker.messages import HttpRequest, Response
from broker.plugins import OwnMetric


class IWebSocketDialect(Interface):
    """A dialect whose clients come over WebSocket."""

    name: str = Attribute("Short lower-case name; also the label in metrics.")
    websocket_paths: Sequence[str] = Attribute(
        "Paths it takes, longest match first; '/x/' also takes what is below it."
    )
    subprotocols: Sequence[str] = Attribute("WebSocket subprotocols it takes on any path.")

    def session(peer: IPeer, link: ILink) -> Awaitable[ISession]:
        """Return the ISession for a client that asks to be connected.

        Called before the upgrade is answered, with the request in
        ``link.handshake``; it may wait, and must not send.

        Raises:
            Refused: answer with this HTTP status instead of the upgrade.
            BrokerError: answer with the HTTP status of its code.
        """


class IHttpDialect(Interface):
    """A dialect whose clients come over plain HTTP."""

    name: str = Attribute("Short lower-case name; also the label in metrics.")
    http_paths: Sequence[str] = Attribute("Paths it takes, longest match first; '/x/' also takes what is below it.")

    def answer(peer: IPeer, request: HttpRequest) -> Awaitable[Response]:
        """Return the answer to *request*.

        It is cancelled when the client goes away.  *peer* is closed after the
        answer, unless the dialect has bound a session to it (``Peer.bind``):
        then that session closes it.

        Where the body is sent while it is made (see ``Response``), *peer* is closed when that has ended, whoever
        is bound to it; if nobody is, the port binds it, so that the connection ends with the credential of its client.
        """


class IStreamDialect(Interface):
    """A dialect whose clients come by connections of their own kind, to endpoints of its own: TCP, TLS, unix sockets.

    Its factory has settings, see ``broker.plugins.with_settings``, among them one that is called ``listen`` and made by
    ``broker.plugins.listen_option``: the endpoints are those of ``TXBROKER_<NAME>_LISTEN``.

    Its connections count as those of the public port do: against the same limits, in all, of an address and of
    clients that are not admitted yet; they are drained with them; and what waits for a client is bounded likewise.
    """

    name: str = Attribute("Short lower-case name; also the label in metrics.")

    def session(peer: IPeer, link: ILink) -> Awaitable[ISession]:
        """Return the ISession for a client that has connected; it may wait, and must not send.

        What the client sends meanwhile comes to the session afterwards.  A ``BrokerError`` closes the connection.
        """


class IDialectExtras(Interface):
    """What a dialect of any kind may have besides, each for itself.

    A dialect does not declare this interface, which would need all of them:
    ``web.extras.DialectExtras`` reads what is there once, at the start, and
    fills in the defaults.
    """

    example: str = Attribute(
        "A shell command by which to try it, logged at the start; ``{http}`` and ``{ws}`` stand "
        "for the URLs of the daemon, ``{websocket}`` for a WebSocket client, and ``{key}``, in double quotes or none, "
        "for the variable of the shell that has a credential."
    )
    any_origin: bool = Attribute(
        "Whether its WebSockets may be opened by pages of any origin, for a credential that no browser adds by itself; "
        "False.  Not where ``TXBROKER_ALLOWED_ORIGINS`` names some, and without a credential only by pages of this "
        "machine."
    )
    refusal_delay: float = Attribute(
        "Seconds for which refused handshakes are held, and requests that are refused for their origin or host, for "
        "clients that come again at once; 0."
    )
    half_close: bool = Attribute(
        "Whether a request that waits goes on when its client shuts down its side of the connection; True.  "
        "Otherwise it is cancelled, for clients of which a waiting request shows that they are there."
    )
    comes_back: bool = Attribute(
        "Whether its clients connect again by themselves after any close; False.  Their WebSockets are closed with "
        "1012 when the daemon stops, the others with 1001."
    )

    metrics: Sequence[OwnMetric] = Attribute(
        "Its own metrics, ``broker.plugins.Counter`` and ``Gauge``: ``txbroker_<dialect>_<name>`` in ``/metrics``; ()."
    )

    def start(peer: IPeer) -> Awaitable[object] | None:
        """The daemon starts: do what is to be done without a client.

        *peer* is for the dialect itself: it may do everything, is called ``broker.dialect.<name>``, and lasts until it
        has stopped; bind a session to it, where events, calls and mail are to come.  Clients are let in when this has
        returned; what it returns is not waited for.  A shared store may not be reached yet: verbs fail with
        ``Unavailable`` then.  What it raises stops the daemon; what it returns and fails is logged.
        """

    def stop() -> Awaitable[object] | None:
        """The daemon stops, and the last client has gone: end what ``start`` has begun.

        What it returns is waited for, for at most five seconds.  Then *peer* is closed.
        """

    def refusal(status: int, message: str, request: HttpRequest) -> Response | None:
        """Return how this dialect says *status* to *request*, which has not reached ``answer`` or has failed there.

        None, which is the default: in the form of the port, ``{"error": …}``.
        """

    def drain() -> None:
        """The daemon stops: answer the requests that wait, and end what outlives a connection.

        Called once.  Afterwards open WebSockets are closed, one after the other where other nodes
        share the store, and requests that are still under way have ``TXBROKER_DRAIN_SECONDS``.
        """
