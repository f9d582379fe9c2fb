"""A command that a call or a job is given to: payload in, output back, and nothing left of it afterwards."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, SubprocessStreamProtocol
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import attrs

from broker.app.client.output import as_json, as_text
from broker.errors import Invalid

GRACE = 2.0  # seconds between SIGTERM and SIGKILL
DRAIN = 1.0  # seconds for what is in the pipes of a command that has ended
MAX_REASON = 1000  # characters of a line on standard error that is told to others
CHUNK = 1 << 16


class OutputTooLarge(Exception):
    """The command has printed more than a message may hold."""


@attrs.frozen
class Result:
    """What has become of a command.

    Attributes:
        status: its exit status; of one that a signal has ended, 128 and the number of that.
        output: what it has printed, if that was asked for.
        reason: the last line that it has printed on standard error, or what its status says.
    """

    status: int
    output: bytes
    reason: str


@attrs.frozen
class Command:
    """A program with its arguments; one word alone is a line for the shell.

    Attributes:
        words: as they were given.
        max_output: bytes that it may print, where its output is a result.
    """

    words: Sequence[str]
    max_output: int = 64 << 20

    @classmethod
    def of(cls, words: Sequence[str]) -> Command:
        """Return the command that *words* are.

        Raises:
            Invalid: there is no such program.
        """
        if len(words) == 1:
            return cls(("/bin/sh", "-c", words[0]))
        if shutil.which(words[0]) is None:
            raise Invalid(message=f"there is no program {words[0]}")
        return cls(tuple(words))

    async def run(self, given: bytes, environ: Mapping[str, str], output: int | None = PIPE) -> Result:
        """Run it, with *given* on its standard input, and wait for its end; cancelling ends all of its processes.

        Args:
            given: what it reads.
            environ: variables besides those of this process.
            output: where its output goes: ``PIPE``, so that it is returned; a file descriptor; None: where that of
                this process goes.

        Raises:
            OutputTooLarge: it has printed too much, and was ended.
            OSError: it can not be run.
        """
        starting = asyncio.ensure_future(self._start(PIPE if given else DEVNULL, output, {**os.environ, **environ}))
        try:
            running = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await (await starting).end()  # it may run already
            raise
        try:
            return await running.finish(given)
        finally:
            await running.end()

    async def _start(self, given: int, output: int | None, environ: Mapping[str, str]) -> _Running:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            lambda: _Protocol(CHUNK, loop),
            *self.words,
            stdin=given,
            stdout=output,
            stderr=PIPE,
            env=environ,
            start_new_session=True,  # so that its processes can be ended together
        )
        return _Running(transport, protocol, self.max_output)


class _Protocol(SubprocessStreamProtocol):
    """Knows when the process has ended: ``Process.wait`` may wait for those that have its pipes, too."""

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit, loop)
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()


@attrs.define(eq=False)
class _Running:
    transport: asyncio.SubprocessTransport
    protocol: _Protocol
    max_output: int
    _output: bytearray = attrs.field(factory=bytearray, init=False)
    _last: bytes = attrs.field(default=b"", init=False)  # of standard error, the line that is not empty
    _partial: bytes = attrs.field(default=b"", init=False)

    async def finish(self, given: bytes) -> Result:
        """Return what becomes of it."""
        pipes = [asyncio.create_task(self._feed(given)), asyncio.create_task(self._read_errors())]
        reader = asyncio.create_task(self._read_output())
        ended = asyncio.create_task(self.protocol.exited.wait())
        try:
            await asyncio.wait([ended, reader], return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                reader.result()  # raises if that was too much
            await ended
            self._kill(signal.SIGKILL)  # what it has left behind would hold the pipes open
            await asyncio.wait([reader, pipes[1]], timeout=DRAIN)
            if reader.done():
                reader.result()
        finally:
            for task in (*pipes, reader, ended):
                task.cancel()
        status = self.transport.get_returncode() or 0
        return Result(status if status >= 0 else 128 - status, bytes(self._output), self._reason(status))

    async def end(self) -> None:
        """End all of its processes that still run, at first with SIGTERM."""
        exited = self.protocol.exited
        if not exited.is_set():
            self._kill(signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(exited.wait(), GRACE)
        self._kill(signal.SIGKILL)
        await exited.wait()
        self.transport.close()  # a process that has left for a session of its own may hold the pipes

    def _kill(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.transport.get_pid(), number)

    async def _feed(self, given: bytes) -> None:
        stream = self.protocol.stdin
        if stream is None:
            return
        with suppress(BrokenPipeError, ConnectionResetError):  # it may end without having read all
            stream.write(given)
            await stream.drain()
        stream.close()

    async def _read_output(self) -> None:
        stream = self.protocol.stdout
        while stream is not None and (data := await stream.read(CHUNK)):
            if len(self._output) + len(data) > self.max_output:
                raise OutputTooLarge(f"it has printed more than {self.max_output} bytes")
            self._output += data

    async def _read_errors(self) -> None:
        stream = self.protocol.stderr
        while stream is not None and (data := await stream.read(CHUNK)):
            sys.stderr.buffer.write(data)
            sys.stderr.flush()
            *lines, rest = (self._partial + data).split(b"\n")
            self._partial = rest[-4 * MAX_REASON :]
            self._last = next((line for line in reversed(lines) if line.strip()), self._last)[-4 * MAX_REASON :]

    def _reason(self, status: int) -> str:
        text = (self._partial.strip() or self._last.strip()).decode("utf-8", "replace")
        if text:
            return text[:MAX_REASON]
        if status < 0:
            return f"ended by {signal.Signals(-status).name}"
        return f"exit status {status}"


def input_of(payload: Any, *, strict: bool) -> bytes:
    """Return what a command reads: text as it is, and anything else as a line of JSON; text, too, if *strict*."""
    if isinstance(payload, str) and not strict:
        return as_text(payload).encode("utf-8", "surrogatepass")
    return as_json(payload).encode() + b"\n"
