"""Handing items to a callback, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isawaitable
from typing import TypeVar

from broker.client.handles import Items, Job
from broker.client.notices import Notice

T = TypeVar("T")


async def call_with_each(items: Items[T], callback: Callable[[T], object], notify: Callable[[Notice], object]) -> None:
    """Call *callback* with each of *items*, and await what it returns, if that can be done; tell what it raises."""
    while True:
        try:
            item = await items.__anext__()
        except StopAsyncIteration:
            return
        except Exception as error:
            notify(Notice("error", "nothing more comes", error=error))
            return
        try:
            result = callback(item)
            if isawaitable(result):
                await result
        except Exception as error:
            notify(Notice("error", "a callback has failed", error=error))


async def work(items: Items[Job], callback: Callable[[Job], object]) -> None:
    """Do each of the jobs of *items* by *callback*."""
    async for job in items:
        async with job:
            result = callback(job)
            if isawaitable(result):
                await result
