"""What is done afterwards is done however the work has ended, and not while a coroutine is being closed."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from broker.core.afterwards import afterwards

ROOT = Path(__file__).parents[2]
LATE = ("BaseException", "GeneratorExit")  # what closing a coroutine comes by


class Work:
    """Work that ends when ``ending`` fires, and what is done after it, which ends when ``cleaning`` does."""

    def __init__(self) -> None:
        self.ending: Deferred[str] = Deferred()
        self.cleaning: Deferred[None] = Deferred()
        self.cleaned = 0
        self.coroutine = afterwards(self._work(), self._clean_up)

    async def _work(self) -> str:
        return await self.ending

    async def _clean_up(self) -> None:
        self.cleaned += 1
        await self.cleaning


def test_the_result_comes_after_what_is_done_afterwards() -> None:
    work = Work()
    results: list[str] = []
    Deferred.fromCoroutine(work.coroutine).addCallback(results.append)
    work.ending.callback("done")
    assert (work.cleaned, results) == (1, [])
    work.cleaning.callback(None)
    assert results == ["done"]


@pytest.mark.parametrize("error", [ValueError, CancelledError])
def test_an_error_comes_after_what_is_done_afterwards(error: type[Exception]) -> None:
    work = Work()
    failures: list[Failure] = []
    doing = Deferred.fromCoroutine(work.coroutine)
    doing.addErrback(failures.append)
    if error is CancelledError:
        doing.cancel()
    else:
        work.ending.errback(error())
    assert (work.cleaned, failures) == (1, [])
    work.cleaning.callback(None)
    assert [failure.type for failure in failures] == [error]


def test_a_coroutine_that_nobody_continues_is_closed_without_it() -> None:
    work = Work()
    work.coroutine.send(None)
    work.coroutine.close()  # raises RuntimeError if it awaits something
    assert work.cleaned == 0
    gc.collect()


def _awaits(statements: Iterable[ast.AST]) -> bool:
    """Whether something is awaited in *statements*, functions that they define left out."""
    for each in statements:
        if isinstance(each, ast.Await | ast.AsyncFor | ast.AsyncWith):
            return True
        nested = isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if not nested and _awaits(ast.iter_child_nodes(each)):
            return True
    return False


def _closing_parts(statement: ast.Try) -> list[list[ast.stmt]]:
    """Return the parts of *statement* that are executed when a coroutine is closed."""
    handlers = [
        handler.body
        for handler in statement.handlers
        if handler.type is None or any(getattr(part, "id", "") in LATE for part in ast.walk(handler.type))
    ]
    return [statement.finalbody, *handlers]


def _sources() -> list[Path]:
    """The modules whose coroutines Twisted runs; asyncio keeps its tasks, and cancels them when it ends."""
    paths = [*(ROOT / "broker").rglob("*.py"), *(ROOT / "protocols").rglob("*.py")]
    return [path for path in paths if "client" not in path.relative_to(ROOT).parts]


@pytest.mark.parametrize(
    "source", ["try: pass\nfinally: await x", "try: pass\nexcept BaseException:\n for _ in y: await x"]
)
def test_an_await_while_a_coroutine_is_closed_is_found(source: str) -> None:
    (statement,) = ast.parse(source).body
    assert isinstance(statement, ast.Try)
    assert any(map(_awaits, _closing_parts(statement)))


def test_nothing_is_awaited_while_a_coroutine_is_closed() -> None:
    found: list[tuple[Any, int]] = [
        (path.relative_to(ROOT), statement.lineno)
        for path in _sources()
        for statement in ast.walk(ast.parse(path.read_text()))
        if isinstance(statement, ast.Try) and any(map(_awaits, _closing_parts(statement)))
    ]
    assert found == []
