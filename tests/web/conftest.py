"""What every test of the public port may ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_twisted

from tests.web.sockets import Scene


@pytest_twisted.async_yield_fixture
async def scene(short_path: Path) -> AsyncIterator[Scene]:
    """Real sockets; begun after the directory, so that a port still finds its socket when it stops."""
    scene = Scene(short_path)
    yield scene
    await scene.close()
