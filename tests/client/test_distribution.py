"""The client alone: the distribution ``txbroker-client`` has what it imports, and nothing else."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent.parent
CLIENT = ROOT / "broker" / "client"
MODULES = sorted(f"broker.client.{path.stem}" for path in CLIENT.glob("*.py") if path.stem != "__init__")
WHEEL = "wheel -q --no-index --no-build-isolation --no-deps -w".split()
INSTALL = "install -q --no-index --no-deps --target".split()
USED = {"attr": "attrs", "attrs": "attrs", "msgspec": "msgspec", "websockets": "websockets", "aiohttp": "aiohttp"}
USED |= {
    "OpenSSL": "twisted",
    "twisted": "twisted",
    "zope": "twisted",
    "autobahn": "autobahn",
}  # Twisted brings zope.interface along
PROGRAM = """
import asyncio

from broker.client import Event, Options, Published
from broker.client.asyncio import Client


async def main(client: Client) -> None:
    async with client, client.subscribe("orders", from_="start") as events:
        published: Published = await client.publish("orders", {"n": 1}, durable=True)
        print(published.id)
        async for event in events:
            print(Event.position.__get__(event).id)
            wrong: str = event.id
            break
    await client.publish("orders")


asyncio.run(main(Client(["ws://one/v1/ws", "ws://two/v1/ws"], ca_file="")))
"""
pytestmark = [pytest.mark.processes, pytest.mark.unmeasured]


def pip(*words: str | Path, cwd: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def python(program: str, path: Path) -> list[str]:
    """Return the words that *program* prints, when modules are found in *path* before all others."""
    environ = {**os.environ, "PYTHONPATH": str(path)}
    done = subprocess.run([sys.executable, "-c", program], env=environ, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", minversion="77")
    place = tmp_path_factory.mktemp("client")
    ignore = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")  # a build leaves files behind
    shutil.copytree(ROOT / "broker", place / "broker", ignore=ignore)
    shutil.copytree(ROOT / "clients" / "python", place / "clients" / "python", ignore=ignore)
    pip(*WHEEL, place, "./clients/python", cwd=place)
    (found,) = place.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    pip(*INSTALL, wheel.parent / "installed", wheel, cwd=wheel.parent)
    return wheel.parent / "installed"


def test_the_page_tells_how_to_install_it():
    # docs/clients/python.rst: what is installed here is installed by that, with what it demands.
    page = (ROOT / "docs" / "clients" / "python.rst").read_text("utf-8")
    (extras,) = re.findall(r"\n    \$ pip install '\./clients/python\[(\w+)\]'\n", page)
    project = tomllib.loads((ROOT / "clients" / "python" / "pyproject.toml").read_text("utf-8"))["project"]
    assert extras in project["optional-dependencies"]


def modules_of(wheel: Path) -> set[str]:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")]
    return {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names}


def test_the_wheel_has_the_modules_that_the_client_imports_and_no_others(wheel):
    program = f"import sys, {', '.join(MODULES)}; print(*(name for name in sys.modules if name.startswith('broker')))"
    assert modules_of(wheel) == set(python(program, ROOT))
    assert "broker/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_what_is_installed_is_imported_and_there_is_no_broker(installed):
    program = f"import {', '.join(MODULES)}; print(*broker.__path__, broker.client.asyncio.Client.__module__)"
    assert python(program, installed) == [str(installed / "broker"), "broker.client.asyncio"]
    assert python("import importlib.util as u; print(u.find_spec('broker.app'), u.find_spec('broker.core'))", installed)
    assert python("import importlib.util as u; print(u.find_spec('broker.core'))", installed) == ["None"]


def test_the_archive_of_the_source_builds_the_same_wheel(wheel):
    place = wheel.parent
    program = "import sys; sys.path.insert(0, '.'); import reproducible; reproducible.build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", program, str(place / "archives")]
    subprocess.run(command, cwd=place / "clients" / "python", check=True, capture_output=True)
    (archive,) = (place / "archives").glob("*.tar.gz")
    pip(*WHEEL, place / "again", archive, cwd=place)
    (again,) = (place / "again").glob("*.whl")
    assert again.read_bytes() == wheel.read_bytes()


def test_it_demands_what_the_client_imports_in_the_ranges_of_the_broker(wheel):
    text = zipfile.ZipFile(wheel).read(next(n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("METADATA")))
    metadata = Parser().parsestr(text.decode())
    demanded = {(one.name, one.specifier) for one in map(Requirement, metadata.get_all("Requires-Dist") or [])}
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    texts = settings["options"]["install_requires"] + settings["options.extras_require"]["client"]
    ranges = {one.name: one.specifier for line in texts.splitlines() if line for one in [Requirement(line)]}
    assert {name for name, _ in demanded} == set(USED.values())
    assert [(name, text) for name, text in demanded if text and text != ranges[name]] == []


def imported(path: Path) -> set[str]:
    """Return the distributions that a module imports wherever."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    tops = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"broker"}
    assert tops <= USED.keys(), path
    return {USED[top] for top in tops}


def test_each_extra_has_what_its_module_imports():
    project = tomllib.loads((ROOT / "clients" / "python" / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    base = {Requirement(text).name for text in project["dependencies"]}
    found = {name: base | {Requirement(text).name for text in texts} for name, texts in extras.items()}
    entrances = {
        "asyncio": ("asyncio", "asyncio_driver"),
        "polling": ("asyncio_polling", "polling"),
        "twisted": ("twisted", "twisted_driver", "twisted_polling"),
    }
    for extra, modules in entrances.items():
        needed = set().union(*(imported(CLIENT / f"{module}.py") for module in modules))
        assert needed | base == found[extra], extra
    entered = {CLIENT / f"{name}.py" for modules in entrances.values() for name in modules}
    others = set(CLIENT.glob("*.py")) - entered
    assert set().union(*map(imported, others)) == base


def test_a_program_is_checked_strictly_against_the_client_alone(installed, short_path):
    (short_path / "program.py").write_text(PROGRAM)
    environ = {**os.environ, "MYPYPATH": str(installed)}
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir=.cache", "program.py"]
    done = subprocess.run(command, cwd=short_path, env=environ, capture_output=True, text=True, check=False)
    faults = [line for line in done.stdout.splitlines() if "error:" in line]
    assert [line.partition("  [")[2] for line in faults] == ["assignment]", "call-arg]"], done.stdout + done.stderr
