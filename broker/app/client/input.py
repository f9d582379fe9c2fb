"""The standard input as lines, without keeping the loop, or the end of the program, waiting."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from threading import Semaphore, Thread

from broker.errors import Invalid

CHUNK = 1 << 16
MAX_LINE = 64 << 20  # bytes


async def input_lines(max_line: int = MAX_LINE) -> AsyncIterator[str]:
    """Yield each line of the standard input, without its end, as it comes.

    Raises:
        Invalid: a line is longer than *max_line* bytes, or no UTF-8.
        OSError: it can not be read.
    """
    number, size = 1, 0
    parts: list[bytes] = []  # of the line that has not ended
    async for chunk in _chunks():
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            yield _text(b"".join((*parts, line)), number)
            number, size, parts = number + 1, 0, []
        parts.append(rest)
        size += len(rest)
        if size > max_line:
            raise Invalid(message=f"line {number} of standard input has more than {max_line} bytes")
    if size:
        yield _text(b"".join(parts), number)


async def _chunks() -> AsyncIterator[bytes]:
    chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    room = Semaphore(1)
    # Not sys.stdin, whose lock a thread that waits for input would keep when the program ends.
    words = sys.stdin.fileno(), chunks, room, asyncio.get_running_loop()
    Thread(target=_read, args=words, daemon=True).start()
    while chunk := await chunks.get():
        if isinstance(chunk, OSError):
            raise chunk
        yield chunk
        room.release()


def _read(
    descriptor: int, chunks: asyncio.Queue[bytes | OSError], room: Semaphore, loop: asyncio.AbstractEventLoop
) -> None:
    data: bytes | OSError = b"more"
    while data and not isinstance(data, OSError):
        room.acquire()
        try:
            data = os.read(descriptor, CHUNK)
        except OSError as error:
            data = error
        try:
            loop.call_soon_threadsafe(chunks.put_nowait, data)
        except RuntimeError:  # the loop is closed: nobody wants it any more
            return


def _text(line: bytes, number: int) -> str:
    try:
        return line.decode().removesuffix("\r")
    except UnicodeDecodeError as error:
        raise Invalid(message=f"line {number} of standard input is no UTF-8: {error}") from None
