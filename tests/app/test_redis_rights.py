"""A daemon whose user of Redis may not do all that it has to do says so where operators look."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted

from tests.support.daemon import WITH_METRICS, Daemon
from tests.support.http_client import get
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_may_not_read_its_store_is_not_ready(short_path: Path, redis_server: RedisServer) -> None:
    await redis_server.command("ACL", "SETUSER", "me", "on", ">s3cret", "~*", "&*", "+@all", "-xrange")
    daemon = Daemon(short_path, **WITH_METRICS, TXBROKER_STORE=f"redis://me:s3cret@127.0.0.1:{redis_server.port}")
    daemon.provoked.append("NOPERM")
    await daemon.start()
    try:
        reason = "its ACL does not permit this user (NOPERM): XRANGE; what needs that is refused"
        answer = await get(f"{daemon.admin_url}/ready")
        assert (answer.status, reason in answer.text) == (503, True)
        said = [str(event["msg"]) for event in daemon.events()]
        assert [line for line in said if reason in line and line.startswith("Redis refuses: ")]
        assert [line for line in said if line.endswith(f"is at {daemon.url}, and not ready: see txbroker status")]
        assert "s3cret" not in "\n".join(daemon.output) + answer.text
        await redis_server.command("ACL", "SETUSER", "me", "+xrange")
        await daemon.until_ready()
    finally:
        await daemon.stop()
    assert daemon.troubles() == []
