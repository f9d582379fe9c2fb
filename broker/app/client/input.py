"""The standard input as lines, without keeping the loop, or the end of the program, waiting."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from threading import Thread

CHUNK = 1 << 16


async def input_lines() -> AsyncIterator[str]:
    """Yield each line of the standard input, without its end, as it comes."""
    chunks: asyncio.Queue[bytes] = asyncio.Queue(1)
    # Not sys.stdin, whose lock a thread that waits for input would keep when the program ends.
    Thread(target=_read, args=(sys.stdin.fileno(), chunks, asyncio.get_running_loop()), daemon=True).start()
    rest = b""
    while chunk := await chunks.get():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield _text(line)
    if rest:
        yield _text(rest)


def _read(descriptor: int, chunks: asyncio.Queue[bytes], loop: asyncio.AbstractEventLoop) -> None:
    while True:
        data = os.read(descriptor, CHUNK)
        try:
            asyncio.run_coroutine_threadsafe(chunks.put(data), loop).result()
        except BaseException:  # the loop has ended: nobody wants it any more
            return
        if not data:
            return


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").removesuffix("\r")
