"""What a program loads with the client: no parts of the broker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PARTS = "core peer access config observe web stores buses redis cluster app interfaces messages".split()
pytestmark = [pytest.mark.processes, pytest.mark.unmeasured]
DRIVERS = {
    "broker.client": ("twisted", "asyncio", "autobahn", "websockets", "aiohttp", "zope"),
    "broker.client.asyncio": ("twisted", "autobahn", "aiohttp"),
    "broker.client.asyncio_polling": ("twisted", "autobahn", "websockets"),
    "broker.client.twisted": ("websockets", "aiohttp"),
    "broker.client.twisted_polling": ("websockets", "aiohttp"),
}


@pytest.mark.parametrize("module", DRIVERS)
def test_a_module_of_the_client_imports_no_more_than_it_needs(module):
    program = f"import sys, {module}; print(*sys.modules)"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    loaded = subprocess.run([sys.executable, "-c", program], env=environ, cwd="/", capture_output=True, check=True)
    names = loaded.stdout.decode().split()
    unwanted = [f"broker.{part}" for part in PARTS] + ["protocols", *DRIVERS[module]]
    found = [name for name in names if any(name == each or name.startswith(f"{each}.") for each in unwanted)]
    assert [name for name in found if not name.startswith("asyncio") or module == "broker.client"] == []
