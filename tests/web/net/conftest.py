"""A reactor with a port for each test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.web.net.loop import Setup


@pytest.fixture
def setup() -> Iterator[Setup]:
    setup = Setup()
    yield setup
    setup.close()
