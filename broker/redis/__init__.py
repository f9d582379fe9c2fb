"""Connections to Redis, for the store and the bus that use one."""

from __future__ import annotations

from broker.redis.address import RedisAddress

__all__ = ["RedisAddress"]
