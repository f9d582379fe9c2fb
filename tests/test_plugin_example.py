"""The example of docs/writing-a-plugin.rst does what that page says of it."""

from __future__ import annotations

import runpy
import sys
from itertools import takewhile
from pathlib import Path
from textwrap import dedent

import pytest
import pytest_twisted

from broker.testing import connect, make_broker
from tests.support.examples import EXAMPLES, load_example
from tests.support.ws_client import ws_connect


@pytest.fixture
def lines():
    return load_example("lines").dialect(None)


def test_the_example_is_shorter_than_sixty_lines():
    assert len((EXAMPLES / "lines.py").read_text().splitlines()) < 60


def test_the_tests_of_that_page_pass(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    tests = runpy.run_path(str(EXAMPLES / "lines_test.py"))
    monkeypatch.delitem(sys.modules, "lines")
    names = [name for name in tests if name.startswith("test_")]
    assert len(names) == 5
    for name in names:
        tests[name]()


def test_a_pattern_is_subscribed_to(lines):
    broker = make_broker()
    ann, bob = connect(broker, lines), connect(broker, lines)
    assert bob.say("SUB news.*") == [b"OK"]
    assert ann.say('PUB news.today {"a": 1}') == [b"OK"]
    assert bob.link.take() == [b'EVENT news.today {"a": 1}']


@pytest.mark.parametrize("line", ["", "SUB", "PUB", "PUB news", "PUB news {", "FLY there", b"SUB \xff", b"PUB a \xff"])
def test_a_line_that_makes_no_sense_is_refused(lines, line):
    (answer,) = connect(make_broker(), lines).say(line)
    assert answer.startswith(b"ERR INVALID ")


def test_a_reserved_name_is_refused(lines):
    assert connect(make_broker(), lines).say("PUB broker.x 1") == [b"ERR DENIED publish broker.x"]


def test_nothing_remains_of_a_client_that_left(lines):
    broker = make_broker()
    ann = connect(broker, lines)
    ann.say("SUB news")
    ann.leave()
    assert len(broker.topics) == 0


@pytest.mark.parametrize("name", ["lines:dialect", "protocols.lines:dialect", "lines"])
@pytest_twisted.ensureDeferred
async def test_the_daemon_speaks_it_beside_the_others(start_daemon, tmp_path, name):
    # As a module of its own, or as a file that somebody adds to the namespace package.
    folder = tmp_path if name == "lines:dialect" else tmp_path / "protocols"
    folder.mkdir(exist_ok=True)
    (folder / "lines.py").write_text((EXAMPLES / "lines.py").read_text())
    path = f"{tmp_path}:{Path(__file__).parent.parent}"
    daemon = await start_daemon(TXBROKER_PROTOCOLS=f"ganomede {name}", PYTHONPATH=path)
    client = await ws_connect(daemon.ws("/lines"))
    client.send("SUB news")
    assert await client.receive() == "OK"
    client.send("PUB news 1")
    assert await client.receive() == "OK"
    client.send("PUB news {")
    assert await client.receive() == "ERR INVALID line"
    await client.close()


def test_every_other_piece_of_python_in_the_docs_compiles():
    pages = {page: code for page in EXAMPLES.parent.rglob("*.rst") for code in python_of(page)}
    for page, code in pages.items():
        compile(code, str(page), "exec")
    # Code of this page is run, as files of docs/examples.
    assert EXAMPLES.parent / "writing-a-plugin.rst" not in pages


def python_of(page):
    """Return the code blocks of *page* that are Python."""
    _, *blocks = page.read_text().split(".. code-block:: python\n")
    return [dedent("\n".join(takewhile(lambda line: not line or line[0] == " ", b.splitlines()))) for b in blocks]
