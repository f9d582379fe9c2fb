"""The endpoints of the port for operators."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import pytest_twisted

from broker.observe.admin.port import private


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("unix:/run/admin", "unix:/run/admin:mode=600"),
        ("unix:/run/admin:mode=660:group=ops", "unix:/run/admin:mode=660:group=ops"),
        ("unix:/run/a\\:mode=1", "unix:/run/a\\:mode=1:mode=600"),
        ("tcp:8001:interface=127.0.0.1", "tcp:8001:interface=127.0.0.1"),
    ],
)
def test_a_unix_socket_is_private_unless_its_mode_is_given(given: str, used: str) -> None:
    assert private(given) == used


@pytest_twisted.ensureDeferred
async def test_nobody_else_can_use_the_socket_of_operators(start_daemon, tmp_path: Path) -> None:
    path = tmp_path / "admin"
    await start_daemon(TXBROKER_ADMIN_LISTEN=f"unix:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
