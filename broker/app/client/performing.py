"""What ``txbroker serve`` does: a command performs calls."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, Literal, TypeAlias

import attrs

from broker.app.client.output import emit_json, note
from broker.app.client.payloads import value_of
from broker.app.client.running import forever, on_terminate
from broker.app.client.shell import Command, OutputTooLarge, Result, input_of
from broker.app.client.target import Target
from broker.client import CallFailed, Notice
from broker.client.asyncio import Client

FAILED, TOO_LONG = "CommandFailed", "CommandTimeout"  # codes of the errors that callers get
Mode: TypeAlias = Literal["single", "roundrobin", "leastbusy"]


def perform(target: Target, performer: Performer, mode: Mode | None, concurrency: int) -> None:
    """Perform calls by *performer* until SIGTERM.

    Args:
        target: the broker.
        performer: runs the command.
        mode: of ``BaseClient.serve``.
        concurrency: how many calls at once.
    """
    forever(target, lambda client: _perform(client, performer, mode, concurrency))


async def _perform(client: Client, performer: Performer, mode: Mode | None, concurrency: int) -> None:
    loop = asyncio.get_running_loop()
    ending: asyncio.Future[None] = loop.create_future()

    def end(error: BaseException | None = None) -> None:
        if ending.done():
            return
        if error is None:
            ending.set_result(None)
        else:
            ending.set_exception(error)

    def registration_failed(notice: Notice) -> None:
        if not client.performs(performer.method):
            end(notice.error)

    on_terminate(end)
    client.on("stopped", lambda notice: end(notice.error))
    # It is told before the registration ends, if it does.
    client.on("registration-failed", lambda notice: loop.call_soon(registration_failed, notice))
    client.serve(performer.method, mode=mode, max_in_flight=concurrency)(performer.respond)
    await client.settled()
    if client.performs(performer.method):
        note(f"calls of {performer.method} are performed")
    await ending
    client.withdraw(performer.method)
    await performer.idle.wait()


@attrs.define(eq=False)
class Performer:
    """Answers calls by a command.

    Attributes:
        method: that is performed.
        command: that performs it.
        timeout: seconds that it may take; None: as the caller says.
        as_text: whether the result is text, also if it is JSON.
        as_json: whether the command reads JSON in any case, and a line is printed for each call.
        idle: set while there is no call.
    """

    method: str
    command: Command
    timeout: float | None
    as_text: bool
    as_json: bool
    idle: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    _count: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.idle.set()

    async def respond(self, *arguments: Any) -> Any:
        """Return the result of a call.

        Raises:
            CallFailed: the command has failed.
        """
        self._count += 1
        self.idle.clear()
        begun, outcome = monotonic(), "cancelled"
        try:
            result = await self._result(arguments)
            outcome = "done"
            return result
        except CallFailed as error:
            outcome = "failed"
            note(f"{self.method}: {error.message}")
            raise
        finally:
            self._count -= 1
            if not self._count:
                self.idle.set()
            if self.as_json:
                emit_json({"method": self.method, "outcome": outcome, "seconds": round(monotonic() - begun, 3)})

    async def _result(self, arguments: tuple[Any, ...]) -> Any:
        given = b"" if not arguments else input_of(_payload(arguments), strict=self.as_json)
        try:
            async with asyncio.timeout(self.timeout):
                result = await self.command.run(given, {"TXBROKER_METHOD": self.method})
        except TimeoutError:
            raise CallFailed(f"the command has taken more than {self.timeout:g} s", TOO_LONG) from None
        except (OSError, OutputTooLarge) as error:
            raise CallFailed(str(error), FAILED) from None
        return self._value(result)

    def _value(self, result: Result) -> Any:
        if result.status:
            raise CallFailed(result.reason, FAILED)
        text = result.output.decode("utf-8", "replace").removesuffix("\n")
        if self.as_text:
            return text
        return value_of(text) if text else None


def _payload(arguments: tuple[Any, ...]) -> Any:
    return arguments[0] if len(arguments) == 1 else list(arguments)
