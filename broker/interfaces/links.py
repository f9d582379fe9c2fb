"""The connection to one client."""

from __future__ import annotations

from collections.abc import Callable

from zope.interface import Attribute, Interface

from broker.messages import CloseCode, Frame, HttpRequest


class ILink(Interface):
    """The connection to one client, as a dialect sends by it.

    That of a stream dialect has no messages: what is sent by any of its methods is written as it is.
    """

    handshake: HttpRequest = Attribute(
        "The HttpRequest that opened the connection; for a stream dialect one without method and path."
    )
    max_message_bytes: int = Attribute("How long a message of the client may be.")
    open: bool = Attribute("Whether what is sent now goes out: from ``ISession.opened`` to the close by either side.")
    paused: bool = Attribute("True while more than a little waits to be sent.")
    unsent: int = Attribute("How many bytes wait to be sent, of which the system has not taken any yet.")
    drains: int = Attribute("How often all that waited was sent, after it was ``paused``.")
    on_drained: Callable[[], object] | None = Attribute(
        "Called once, as soon as nothing waits any more; None: nobody.  Set it while ``paused``."
    )

    def allow_messages(max_bytes: int) -> None:
        """Receive messages of up to *max_bytes*, instead of ``TXBROKER_MAX_MESSAGE_BYTES``.

        For a dialect whose encoding makes more of what is allowed; called while the session is made.
        """

    def pause_receiving() -> None:
        """Receive nothing more until ``resume_receiving``: the client's network makes it wait.  Idempotent."""

    def resume_receiving() -> None:
        """Receive again, soon.  Idempotent; the close of the connection does it too."""

    def send(payload: bytes) -> None:
        """Send *payload*, which must be UTF-8, as one text message.

        After the close it does nothing.  When more than the send queue's limit
        waits for a client for longer than the grace of slow readers, the link is
        closed with 1013.
        """

    def send_binary(payload: bytes) -> None:
        """Send *payload* as one binary message."""

    def send_frame(frame: Frame) -> None:
        """Send a message that was built once for many receivers."""

    def hold(change: int) -> None:
        """Count *change* bytes more that the session keeps for this client, or fewer when it is negative.

        A session that keeps frames or events for later tells it here, for the bounds of memory; a client for which
        too much is kept is closed with 1013.
        """

    def close(code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Close with a close frame; *reason* is cut to the 123 bytes that one holds.

        For a stream dialect, what ``IStreamSession.last_words`` returns stands for that frame.
        """

    def abort() -> None:
        """Drop the connection without a close frame: the peer sees 1006."""
