"""Connections to Redis, for the store and the bus that live there."""

from __future__ import annotations

from broker.redis.address import RedisAddress, is_redis

__all__ = ["RedisAddress", "is_redis"]
