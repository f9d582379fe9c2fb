"""How a command runs a client: until it has its answer, or until it is stopped."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NoReturn, TypeAlias

from broker.app.client.output import note
from broker.app.client.target import Target
from broker.app.commands.console import FAILED, fail
from broker.app.interrupts import INTERRUPTED, raise_interrupts
from broker.client import ClientError, Notice, RateLimited, Taken, Timeout, Unauthenticated, Unavailable
from broker.client.asyncio import Client

Work: TypeAlias = Callable[[Client], Awaitable[Any]]
Stop: TypeAlias = Callable[[], object]

MAX_MESSAGE = 64 << 20  # bytes: how large a message may be is for the broker to say
FOR_EVER = 1e9  # seconds
PASSING = (RateLimited, Taken, Timeout, Unavailable)  # after these a client registers again


def once(target: Target, work: Work, *, endless: bool = False) -> Any:
    """Return what *work* returns, with a client that is connected; end with the status 1 if it fails, or takes long.

    Args:
        target: the broker.
        work: what is done.
        endless: whether only the connecting has to be done in time.
    """
    return _run(target, _once(target, work, endless))


def forever(target: Target, work: Work) -> Any:
    """Run *work*, with a client that comes back for ever, and tells on standard error when it has to."""
    return _run(target, _forever(target, work))


def on_terminate(stop: Stop) -> None:
    """Call *stop* at SIGTERM, in the place of ending at once."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)


def _run(target: Target, work: Awaitable[Any]) -> Any:
    async def wrapped() -> Any:
        return await work

    try:
        raise_interrupts()
        return asyncio.run(wrapped())
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except Unauthenticated as error:
        fail(f"{error.code}: {_credential_hint(target)} ({error.message})")
    except ClientError as error:
        fail_by(error)


def _credential_hint(target: Target) -> str:
    if target.credential:
        return "the broker does not accept the credential, see TXBROKER_CREDENTIAL and --credential-file"
    return "the broker wants a credential, in TXBROKER_CREDENTIAL or by --credential-file"


def fail_by(error: ClientError) -> NoReturn:
    """End with the status 1, and say why in a line: the code of *error*, and its words."""
    code = error.code.lower().replace("_", " ")
    fail(error.code if error.message in ("", code) else f"{error.code}: {error.message}", FAILED)


async def _once(target: Target, work: Work, endless: bool) -> Any:
    client = make_client(target)
    reasons: list[str] = []
    client.on("waiting", lambda notice: reasons.append(notice.reason))
    client.on("error", lambda notice: note(f"{notice.reason}: {notice.error}" if notice.reason else str(notice.error)))
    connected = False
    try:
        async with asyncio.timeout(target.timeout) as limit:
            await client.connect()
            connected = True
            if endless:
                limit.reschedule(None)
            return await work(client)
    except TimeoutError:
        if connected:
            fail(f"TIMEOUT: no answer within {target.timeout:g} s")
        why = f": {reasons[-1]}" if reasons else ""
        fail(f"NOT_CONNECTED: no connection to {target.url} within {target.timeout:g} s{why}")
    finally:
        with suppress(ClientError):
            await client.close()


async def _forever(target: Target, work: Work) -> Any:
    client = make_client(target)
    client.on("*", Reporter(target.url))
    try:
        await client.connect()
        return await work(client)
    finally:
        with suppress(ClientError):
            await client.close()


def make_client(target: Target) -> Client:
    """Return a client of *target*, not connected yet."""
    return Client(
        target.url,
        token=target.credential or None,
        ca_file=target.ca_file,
        name=target.client,
        timeout=FOR_EVER if target.timeout is None else target.timeout,
        max_message_bytes=MAX_MESSAGE,
    )


class Reporter:
    """Tells on standard error when a client is not connected, each time once, and what else it should know."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._told = ""

    def __call__(self, notice: Notice) -> None:
        """Tell *notice*, if it has to be known."""
        match notice.kind:
            case "lost":
                why = f" ({notice.reason})" if notice.reason else ""
                self._tell_away(f"the connection to {self._url} is lost{why}; connecting again")
            case "waiting" if not self._told:
                self._tell_away(f"no connection to {self._url} ({notice.reason or notice.code}); trying again")
            case "ready" if self._told:
                self._told = ""
                note("connected again")
            case "gap" if notice.gap is not None:
                ids = [str(id) for id in (notice.gap.first, notice.gap.last) if id is not None]
                what = f" {' to '.join(ids)}" if ids else ""
                note(f"{notice.gap.topic}: events{what} can not be had any more ({notice.gap.why})")
            case "registration-failed" if not isinstance(notice.error, PASSING):
                return  # it ends the command, which says why
            case "registration-failed" | "job-lost" | "rate-limited" | "error":
                error = f": {notice.error}" if notice.error is not None else ""
                note(f"{notice.kind.replace('-', ' ')}: {notice.reason}{error}")

    def _tell_away(self, text: str) -> None:
        self._told = text
        note(text)
