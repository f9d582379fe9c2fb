"""What can go wrong, each with a stable code.

An error is raised where it is noticed and turned into a reply once, at the
dialect's edge, in that dialect's own words.
"""

from __future__ import annotations


def with_detail(message: str, detail: str) -> str:
    """Return the sentence *message* with *detail*, for operators, behind a colon."""
    return f"{message.rstrip('.')}: {detail.rstrip('.')}."


class BrokerError(Exception):
    """A refusal that a client may be told.

    Attributes:
        code: stable UPPER_SNAKE name; each dialect has one table from it.
        what: the short word for what was wrong (``"method"``, ``"publish"``).
        name: the name it was wrong with, perhaps empty.
        message: a whole sentence for people; made of the two when not given.
        explanation: that sentence when it was given, for a dialect whose own words say less; else "".
        data: further details as JSON text, or None.
    """

    code = "INTERNAL"

    def __init__(self, what: str = "", name: str = "", *, message: str = "", data: bytes | None = None) -> None:
        self.what = what
        self.name = name
        self.explanation = message
        self.message = message or f"{what} {name}".strip()
        self.data = data
        super().__init__(self.message)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.code} {self.message!r}>"


class NotFound(BrokerError):
    """There is no such method, service, key, index or recipient registration."""

    code = "NOT_FOUND"


class Timeout(BrokerError):
    """No answer came before the deadline."""

    code = "TIMEOUT"


class Gone(BrokerError):
    """The other side is not there, or left in the middle.

    ``what`` is ``"recipient"`` for one that was never there and ``"lost"``
    for one that left during the call.
    """

    code = "GONE"


class Taken(BrokerError):
    """Somebody else holds that name."""

    code = "TAKEN"


class Unauthenticated(BrokerError):
    """Credentials are missing or wrong.

    ``guessed`` is false for one that was issued to somebody, and is not good now: it has
    expired, say, or was revoked.  ``reason`` is why, for operators and for dialects that say
    so; the original clients of the others know one text for all of it.
    """

    code = "UNAUTHENTICATED"

    def __init__(
        self,
        what: str = "",
        name: str = "",
        *,
        message: str = "",
        data: bytes | None = None,
        guessed: bool = True,
        reason: str = "",
    ) -> None:
        super().__init__(what, name, message=message, data=data)
        self.guessed = guessed
        self.reason = message or reason


class Denied(BrokerError):
    """The identity is known but has no permission for this."""

    code = "DENIED"


class Invalid(BrokerError):
    """An argument is malformed."""

    code = "INVALID"


class TooLarge(BrokerError):
    """A message, name or value is over its limit."""

    code = "TOO_LARGE"


class RateLimited(BrokerError):
    """A rate or a count is over its limit.

    ``retry_after`` is the number of seconds after which to try again.
    """

    code = "RATE_LIMITED"

    def __init__(
        self, what: str = "", name: str = "", *, message: str = "", data: bytes | None = None, retry_after: float = 1.0
    ) -> None:
        super().__init__(what, name, message=message, data=data)
        self.retry_after = retry_after


class Unavailable(BrokerError):
    """The store or the bus is away, or the daemon is draining.

    ``detail`` says why, in words that only operators may see: errors of the system, addresses,
    numbers.  It stands in ``str()`` of the error, and never in ``message``.
    """

    code = "UNAVAILABLE"

    def __init__(
        self, what: str = "", name: str = "", *, message: str = "", data: bytes | None = None, detail: str = ""
    ) -> None:
        super().__init__(what, name, message=message, data=data)
        if detail:
            self.args = (with_detail(message, detail),)


class NotDone(Unavailable):
    """As ``Unavailable``, and nothing was done: with others of that kind, it may have been done or not.

    ``retry_after`` is the number of seconds after which it may be tried again; 0: that is not known.
    """

    def __init__(
        self,
        what: str = "",
        name: str = "",
        *,
        message: str = "",
        data: bytes | None = None,
        detail: str = "",
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(what, name, message=message, data=data, detail=detail)
        self.retry_after = retry_after


class Busy(BrokerError):
    """Who could do it has all that it may have at once, and no more may wait.  It was not begun."""

    code = "BUSY"


class Cancelled(BrokerError):
    """The caller has cancelled it; it may have been done or not."""

    code = "CANCELLED"


class Conflict(BrokerError):
    """A compare-and-set found another revision than it expected."""

    code = "CONFLICT"


class CalleeFailed(BrokerError):
    """The callee itself answered with an error; its own code passes through."""

    def __init__(self, code: str, message: str, data: bytes | None = None) -> None:
        super().__init__("callee", message=message, data=data)
        self.message = message  # perhaps empty
        self.code = code


class Refused(BrokerError):
    """A connection is refused before the WebSocket upgrade, with an HTTP status.

    ``retry_after`` is for 429 and 503: the number of seconds after which to try again.
    """

    def __init__(
        self,
        status: int,
        message: str = "",
        *,
        body: bytes = b"",
        content_type: str = "text/plain; charset=utf-8",
        retry_after: float = 1.0,
    ) -> None:
        super().__init__("handshake", message=message)
        self.retry_after = retry_after
        self.status = status
        self.body = body
        self.content_type = content_type
