"""A default installation, without the extra ``redis``: everything works but Redis, and that says what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor

from broker import __version__
from broker.buses import open_bus
from broker.errors import Invalid
from broker.redis.connection import make_reply_parser
from broker.stores import open_store
from tests.support import http_client
from tests.support.daemon import TWISTD, Daemon
from tests.support.eventually import TIMEOUT
from tests.support.processes import Program

pytestmark = pytest.mark.processes

MESSAGE = "Redis needs hiredis: pip install txbroker[redis]"
REDIS = "redis://127.0.0.1:1/0"
# Python imports this module by itself at its start; an entry None hides a module from all imports.
HIDE_HIREDIS = "import sys\nsys.modules['hiredis'] = None\n"
COMMAND = [sys.executable, "-c", "from broker.app.command import main; main()"]


@pytest.fixture
def environ(short_path: Path) -> dict[str, str]:
    """The environment of processes from which hiredis is hidden."""
    hidden = short_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(HIDE_HIREDIS)
    root = Path(__file__).parent.parent.parent
    return {"PYTHONPATH": f"{hidden}:{root}"}


def run(directory: Path, command: list[str], **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=Daemon(directory, **environ).environ,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_hiredis_is_hidden(short_path: Path, environ: dict[str, str]) -> None:
    found = run(short_path, [sys.executable, "-c", "import hiredis"], **environ)
    assert "ModuleNotFoundError" in found.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([*COMMAND, "--help"], "import-ganomede"),
        ([*COMMAND, "--version"], f"txbroker {__version__}"),
        ([*COMMAND, "import-ganomede", "--help"], "usage: txbroker import-ganomede"),
        ([TWISTD, "broker", "--help"], "Dialects found: "),
        ([TWISTD, "broker", "--version"], f"txbroker {__version__}"),
    ],
)
def test_what_needs_no_redis_runs(short_path: Path, environ: dict[str, str], command: list[str], words: str) -> None:
    done = run(short_path, command, **environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert words in done.stdout


@pytest_twisted.ensureDeferred
async def test_the_daemon_runs_with_sqlite(start_daemon, environ: dict[str, str]) -> None:
    daemon = await start_daemon(**environ, TXBROKER_STORE="sqlite:")
    event = {"clientId": "c", "channel": "ch", "from": "f", "type": "t"}
    assert (await http_client.post(f"{daemon.url}/events/v1/events", event)).json()["id"] == 1
    assert await daemon.stop() == 0


@pytest.mark.parametrize("setting", [{"TXBROKER_STORE": REDIS}, {"REDIS_EVENTS_PORT_6379_TCP_ADDR": "127.0.0.1"}])
@pytest_twisted.ensureDeferred
async def test_a_daemon_with_a_redis_url_says_what_to_install(
    short_path: Path, environ: dict[str, str], setting: dict[str, str]
) -> None:
    program: Program = Daemon(short_path, **environ, **setting).spawn()
    assert await program.exit() == 2
    assert program.lines == ["txbroker can not start:", f"  {MESSAGE}"]


@pytest.mark.parametrize("store", ["sqlite:", REDIS])
def test_the_import_says_what_to_install(short_path: Path, environ: dict[str, str], store: str) -> None:
    done = run(short_path, [*COMMAND, "import-ganomede", REDIS], **environ, TXBROKER_STORE=store)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"txbroker: {MESSAGE}\n")


def test_each_part_that_connects_to_redis_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hiredis", None)
    for make in (
        lambda: open_store(REDIS, clock=reactor),
        lambda: open_bus(REDIS, "node", reactor=reactor),
        make_reply_parser,
    ):
        with pytest.raises(Invalid) as caught:
            make()
        assert str(caught.value) == MESSAGE


def test_another_module_that_is_missing_is_not_taken_for_hiredis(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "hiredis":
                raise ModuleNotFoundError("No module named 'other'", name="other")

    monkeypatch.delitem(sys.modules, "hiredis", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match="other"):
        make_reply_parser()
