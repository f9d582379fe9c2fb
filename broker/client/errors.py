"""What can go wrong for a client, each with the stable code that ``broker.errors`` has for it."""

from __future__ import annotations

from typing import ClassVar

from broker import errors

DEFAULT_RETRY = 1.0  # seconds after which to try again, where the broker names none


class ClientError(Exception):
    """Something that was asked for has failed.

    Attributes:
        code: stable UPPER_SNAKE name.
        message: what the broker, or the callee, has said.
        done: whether it may have been done all the same: nobody knows, when the answer was lost.
    """

    code: str = "INTERNAL"
    done: ClassVar[bool] = False

    def __init__(self, message: str = "") -> None:
        super().__init__(message or self.code.lower().replace("_", " "))
        self.message = message


class NotFound(ClientError):
    """There is no such procedure, key, job or recipient."""

    code = errors.NotFound.code


class Timeout(ClientError):
    """No answer came before the deadline."""

    code = errors.Timeout.code
    done = True


class Gone(ClientError):
    """The other side is not there, has left in the middle, or the position is of another epoch."""

    code = errors.Gone.code
    done = True


class Taken(ClientError):
    """Somebody else holds that name, or this client itself consumes or performs what is called so."""

    code = errors.Taken.code


class Unauthenticated(ClientError):
    """The credential is missing, wrong, or not good any more."""

    code = errors.Unauthenticated.code


class Denied(ClientError):
    """The principal has no permission for this."""

    code = errors.Denied.code


class Invalid(ClientError):
    """An argument is malformed."""

    code = errors.Invalid.code


class TooLarge(ClientError):
    """A message, name or value is over its limit."""

    code = errors.TooLarge.code


class RateLimited(ClientError):
    """A rate or a count is over its limit.

    Attributes:
        retry_after: seconds after which to try again.
    """

    code = errors.RateLimited.code

    def __init__(self, message: str = "", retry_after: float = DEFAULT_RETRY) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(ClientError):
    """The broker can not do it now; it may have been done."""

    code = errors.Unavailable.code
    done = True


class Busy(ClientError):
    """Who could do it has all that it may have at once.  It was not begun."""

    code = errors.Busy.code


class Cancelled(ClientError):
    """It was cancelled; it may have been done."""

    code = errors.Cancelled.code
    done = True


class Conflict(ClientError):
    """There is another revision, or another newest event, than was expected.

    Attributes:
        head: the newest id of the topic, if that is what was expected.
    """

    code = errors.Conflict.code

    def __init__(self, message: str = "", head: int | None = None) -> None:
        super().__init__(message)
        self.head = head


class CallFailed(ClientError):
    """The callee has answered with an error of its own; raised by a procedure, it is such an error.

    Attributes:
        code: the callee's.
    """

    def __init__(self, message: str = "", code: str = "ResilientError") -> None:
        self.code = code
        super().__init__(message)


# Of the client itself.


class NotConnected(ClientError):
    """There is no connection, and it was asked not to wait for one.  Nothing was sent."""

    code = "NOT_CONNECTED"


class Untrusted(ClientError):
    """The certificate of the broker is not one of those that are trusted, or is that of another host."""

    code = "UNTRUSTED"


class ConnectionLost(ClientError):
    """The connection was lost before the answer; it may have been done."""

    code = "CONNECTION_LOST"
    done = True


class BufferFull(ClientError):
    """As much waits for a connection as may.  Nothing was sent."""

    code = "BUFFER_FULL"


class Closed(ClientError):
    """The client was closed, or has given up."""

    code = "CLOSED"
    done = True


# By type and beginning of the message, as the native dialect writes them: the first that fits.
_TABLE: tuple[tuple[str, str, type[ClientError]], ...] = (
    ("SocketErrorConnectionUnsupported", "", NotFound),
    ("SocketErrorConnectionUnauthorized", "", Unauthenticated),
    ("SocketErrorConnection", "", Gone),
    ("SocketErrorTimeout", "", Timeout),
    ("ForbiddenAuthorizationError", "", Denied),
    ("SocketErrorMessageMalformed", "", Invalid),
    ("SocketErrorMessage", "socket:message:exists:", Taken),
    ("SocketErrorMessage", "socket:message:conflict:", Conflict),
    ("SocketErrorMessage", "socket:message:busy:", Busy),
    ("SocketErrorMessage", "socket:message:cancelled:", Cancelled),
    ("SocketErrorMessage", "socket:message:limit:", RateLimited),
    ("AuthManagerError", "", Unauthenticated),
    ("AuthManagerErrorAuthenFailed", "", Unauthenticated),
    ("AuthManagerErrorUnsupported", "", Unauthenticated),
    ("SocketError", "socket:internal", Unavailable),
)
_LIMIT = "socket:message:limit:"
# What ``limit:`` names when something is too large; everything else that it names is a rate or a count.
_TOO_LARGE = ("frame", "presence", "events", "exclude", "topics", "value", "snapshot", "names", "payload", "message")
_CONFLICT = "socket:message:conflict:"


def error_of(marshalled: str, retry_after: float = 0.0) -> ClientError:
    """Return the error that the string ``type|||message|||`` of the wire means.

    *retry_after* is the number of seconds that the broker has named; 0: none.
    """
    kind, mark, rest = marshalled.partition("|||")
    message = rest.partition("|||")[0] if mark else marshalled
    if message.removeprefix(_LIMIT) in _TOO_LARGE and message.startswith(_LIMIT):
        return TooLarge(message)
    for name, beginning, error in _TABLE:
        if kind == name and message.startswith(beginning):
            if error is RateLimited:
                return RateLimited(message, retry_after or DEFAULT_RETRY)
            head = message.removeprefix(_CONFLICT)
            return Conflict(message, int(head)) if error is Conflict and head.isdecimal() else error(message)
    return CallFailed(message, kind if mark else "ResilientError")


def is_rate(error: ClientError) -> bool:
    """Whether *error* says that too much was asked at once: it was not done, and may be asked again."""
    return isinstance(error, RateLimited) and error.message == _LIMIT + "rate"
