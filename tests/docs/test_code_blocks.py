"""Each block of code of the documentation is run against a daemon, and prints what the page shows."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted

from tests.conftest import StartDaemon
from tests.support.block_texts import TEXTS, check_text
from tests.support.chromium import Page
from tests.support.code_blocks import Block, blocks_of, pattern_of
from tests.support.daemon import ROOT, WITH_METRICS
from tests.support.node import INTEROP
from tests.support.page_runs import PageRun, SharedBrowser, with_output

DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.rst"), *ROOT.glob("*.rst")])
BLOCKS = {page: blocks for page in PAGES if (blocks := list(blocks_of(page)))}
# Why a block may not be run; there are no other reasons.
REASONS = {
    "it takes minutes",
    "its client is not on npm",
    "it is a drawing",
    "it is for the machine of an operator",
    "the log has it in a case that other tests make",
}
SOCKETS = {"owlmeans": "/owlmeans", "hpkv": "/ws?apiKey=api-key", "thinws": "/thinws"}  # by page
ENVIRON = {"TXBROKER_POLL_TIMEOUT_SECONDS": "0.2", **WITH_METRICS}


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT)).removesuffix(".rst")


def run_here(page: Path) -> list[Block]:
    return [block for block in BLOCKS[page] if not block.reason and not block.test]


@pytest_twisted.async_yield_fixture(scope="module")
async def browsers() -> AsyncIterator[SharedBrowser]:
    shared = SharedBrowser()
    yield shared
    await shared.end()


def furnish(directory: Path) -> None:
    """Put what the reader of a page has into *directory*."""
    for example in (DOCS / "examples").iterdir():
        if example.is_file():
            shutil.copy(example, directory)
    (directory / ".curlrc").write_text("silent\n")  # else the meter of a terminal
    (directory / "changes").mkdir()
    if not shutil.which("curl"):
        pytest.skip("curl is missing: apt-get install curl")
    assert (INTEROP / "node_modules").is_dir(), "node modules are missing: run `make test` once"
    (directory / "node_modules").symlink_to(INTEROP / "node_modules")


RUNNING = [page for page in BLOCKS if any(block.language not in TEXTS for block in run_here(page))]


@pytest.mark.parametrize("page", [page for page in BLOCKS if page not in RUNNING], ids=name_of)
def test_each_block_is_what_it_seems_to_be(page: Path) -> None:
    for block in run_here(page):
        check_text(block)


@pytest.mark.parametrize("page", RUNNING, ids=name_of)
@pytest_twisted.ensureDeferred
async def test_each_block_does_what_is_shown(
    page: Path, start_daemon: StartDaemon, browsers: SharedBrowser, tmp_path: Path
) -> None:
    furnish(tmp_path)
    html = Page("")
    daemon = await start_daemon(**ENVIRON, TXBROKER_ALLOWED_ORIGINS=html.origin)
    run = PageRun(daemon, tmp_path, html, browsers, SOCKETS.get(page.stem, "/owlmeans"))
    try:
        for block, shown in with_output(run_here(page)):
            await run.perform(block, shown)
        await run.finish()
    finally:
        await run.end()
        await html.close()


def test_there_are_five_reasons_for_a_block_not_to_be_run():
    given = {block.reason for blocks in BLOCKS.values() for block in blocks if block.reason}
    assert given == REASONS
    assert len(REASONS) <= 5


def test_a_test_that_runs_the_blocks_of_a_page_names_it():
    for page, blocks in BLOCKS.items():
        for block in blocks:
            assert not block.test or page.name in (ROOT / block.test).read_text("utf-8"), str(block)


PAGE = """A page
======

Settings::

    TXBROKER_RATE=5

.. not run: it is a drawing

.. code-block:: text

    a ─▶ b

Frames, and a file::

    > {"type":"ping"}

.. code-block:: python
   :caption: one.py

   print(1)
"""


def test_blocks_are_found_with_what_is_to_be_known_of_them(tmp_path):
    path = tmp_path / "page.rst"
    path.write_text(PAGE)
    settings, drawing, frames, file = blocks_of(path)
    assert (settings.language, settings.text) == ("settings", "TXBROKER_RATE=5\n")
    assert (drawing.language, drawing.reason) == ("text", "it is a drawing")
    assert (frames.language, frames.reason) == ("frames", "")
    assert (file.language, file.caption, file.text) == ("python", "one.py", "print(1)\n")


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("5", "5", True),
        ("5", "55", False),
        ('{"id":1,…}', '{"id":1,"x":[1]}', True),
        ('{"time":1767225600000}', '{"time":1795793943359}', True),
        ("a.c", "abc", False),
    ],
)
def test_what_is_shown_stands_for_what_is_printed(shown, printed, same):
    assert (pattern_of(shown).fullmatch(printed) is not None) is same
