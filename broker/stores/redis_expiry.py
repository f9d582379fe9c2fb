"""Ends the keys of the Redis store whose time is over, in steps, between which other operations are done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from broker.errors import Unavailable
from broker.messages import Announce, Announcement, decode_text, encode_text
from broker.redis.batcher import Operation

KEYS_STEP = 200  # keys that are removed in one call


class RedisExpiry:
    """Removes keys that have expired.

    Args:
        submit: has an operation done.
        change: changes a key, and publishes or stores its event in the same step.
        judged: told the time of the server, and of how many seconds of its jumps are skipped.
    """

    def __init__(
        self,
        submit: Callable[[Operation], Deferred[Any]],
        change: Callable[[Sequence[bytes], Callable[[Any], Any], Announcement | None, bytes | None], Deferred[Any]],
        judged: Callable[[float, float], object],
    ) -> None:
        self._submit, self._change, self._judged = submit, change, judged

    def expired(self, space: str, limit: int, announce: Announce | None) -> Deferred[list[str]]:
        """See ``IStore.expired``; *limit* is at least 1."""
        if announce is None:
            return Deferred.fromCoroutine(self._expired(encode_text(space), limit))
        return Deferred.fromCoroutine(self._expired_announced(encode_text(space), limit, announce))

    def expire(self, space: bytes, due: bytes) -> Deferred[list[bytes]]:
        """Remove the keys of *space* that have expired before *due*, at most ``KEYS_STEP``, and return them."""
        return self._submit(Operation((b"expire", space, due, b"%d" % KEYS_STEP)))

    async def _expired_announced(self, space: bytes, limit: int, announce: Announce) -> list[str]:
        found: list[str] = []
        while len(found) < limit:
            step = min(limit - len(found), KEYS_STEP)
            try:
                looked_at, ended = await self._end_due(space, step, announce)
            except Unavailable:
                if not found:
                    raise
                break  # those that were removed must be told
            found += ended
            if looked_at < step:
                break
        return found

    async def _end_due(self, space: bytes, limit: int, announce: Announce) -> tuple[int, list[str]]:
        """Look which keys have expired, whose events are made here, and remove those that still have then.

        Returns how many had, and those that were removed by this.
        """
        now, skipped, keys = await self._submit(Operation((b"due", space, b"%d" % limit), reads=True))
        self._judged(float(now), float(skipped))
        removing = [self._remove_due(space, key, announce(decode_text(key))) for key in keys]
        removed = await DeferredList(removing, consumeErrors=True)
        ended = [decode_text(key) for key, (success, there) in zip(keys, removed, strict=True) if success and there]
        failures = [cast(Failure, result) for success, result in removed if not success]
        if failures and not ended:
            failures[0].raiseException()
        return 0 if failures else len(keys), ended

    def _remove_due(self, space: bytes, key: bytes, announcement: Announcement | None) -> Deferred[int]:
        return self._change((b"remove_due", space, key), int, announcement, None)

    async def _expired(self, space: bytes, limit: int) -> list[str]:
        found: list[bytes] = []
        while len(found) < limit:
            step = min(limit - len(found), KEYS_STEP)
            try:
                now, skipped, some = await self._submit(Operation((b"expired", space, b"%d" % step)))
            except Unavailable:
                if not found:
                    raise
                break  # those that were removed must be told
            self._judged(float(now), float(skipped))
            found += some
            if len(some) < step:
                break
        return list(map(decode_text, found))
