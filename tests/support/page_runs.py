"""Runs the blocks of one page of the documentation, one after the other, against one daemon."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from tests.support.block_texts import check_text
from tests.support.browser import Browser
from tests.support.chromium import Page
from tests.support.code_blocks import Block, pattern_of
from tests.support.commands import TXBROKER
from tests.support.daemon import Daemon, clean_environ
from tests.support.eventually import STEP, TIMEOUT, eventually, pause
from tests.support.http_client import get
from tests.support.node import node_executable
from tests.support.processes import Program
from tests.support.ws_client import WebSocket, ws_connect

BETWEEN = "-- the next one --"
COMMAND = re.compile(r"^\$ ", re.MULTILINE)
SOCKET = re.compile(r"\$ \S*websockets '?ws://[^/]+([^'\n]*)")
MODULE = re.compile(r"http://localhost:8000/v1/([\w-]+)\.js")  # Node imports files only
ORIGIN = "http://localhost:3000"  # where pages of the reader come from
PROGRAMS = ("python", "javascript", "html")


def with_output(blocks: Sequence[Block]) -> Iterator[tuple[Block, str | None]]:
    """Yield each block of *blocks* that does something, with what the block below it says that it prints."""
    shown = None
    for number, block in enumerate(blocks):
        below = blocks[number + 1] if number + 1 < len(blocks) else None
        if block.language in PROGRAMS and not block.reason and not block.caption:
            shown = below.text if below is not None and below.language == "text" and not below.note else None
            yield block, shown
        elif shown is None or block.language != "text":
            yield block, None
            shown = None


@attrs.define
class SharedBrowser:
    """A browser that is started when the first page wants it."""

    _browser: Browser | None = None

    async def started(self) -> Browser:
        if self._browser is None:
            self._browser = await Browser().start()
        return self._browser

    async def end(self) -> None:
        if self._browser is not None:
            await self._browser.stop()


@attrs.define
class PageRun:
    """What the blocks of a page have in common: a daemon, a directory, and what they have started.

    ``html`` shows the pages that the blocks have, and comes from an origin that the daemon allows.
    ``socket_path`` is where frames are sent, until a block says another one.
    """

    daemon: Daemon
    directory: Path
    html: Page
    browsers: SharedBrowser
    socket_path: str
    _staying: list[tuple[Block, Program]] = attrs.Factory(list)
    _sockets: dict[str, WebSocket] = attrs.Factory(dict)
    _opened: list[WebSocket] = attrs.Factory(list)
    _ids: dict[str, str] = attrs.Factory(dict)  # of requests: what the page has, and what the broker has given

    async def perform(self, block: Block, shown: str | None) -> None:
        """Run *block*, and compare what it prints with *shown*, or with what it shows itself."""
        if block.caption:
            (self.directory / block.caption).write_text(self._here(block.text), "utf-8")
            return
        if block.language in PROGRAMS:
            assert shown is not None or block.language == "python", f"{block}: nothing says what it prints"
            program = {"python": self._python, "javascript": self._javascript, "html": self._html}
            await program[block.language](block, shown or "")
            return
        await self._others(block)

    async def _others(self, block: Block) -> None:
        match block.language:
            case "console" if block.stays:
                await self._stay(block)
            case "console":
                await self._console(block)
            case "frames":
                await self._frames(block)
            case _:
                check_text(block)

    async def finish(self) -> None:
        """Compare what programs have printed that ran meanwhile."""
        for block, program in self._staying:
            await self._until_printed(block, program, block.text.partition("\n")[2])

    async def end(self) -> None:
        """End all that runs."""
        for _, program in self._staying:
            await program.end()
        for socket in self._opened:
            socket.abort()

    @staticmethod
    async def _until_printed(block: Block, program: Program, shown: str) -> None:
        await eventually(lambda: _printed(program, shown) or program.status is not None)
        assert _printed(program, shown), f"{block}\n{program.report()}"

    def _here(self, text: str) -> str:
        """Return *text* with what is there in the place of what the reader has."""
        here = f"127.0.0.1:{self.daemon.port}"
        for shown, real in ((ORIGIN, self.html.origin), ("localhost:8000", here), ("127.0.0.1:8000", here)):
            text = text.replace(shown, real)
        text = text.replace("port: 8000", f"port: {self.daemon.port}")
        return text.replace("127.0.0.1:8001", self.daemon.admin_url.removeprefix("http://"))

    # Programs

    def _start(self, *words: str | Path) -> Program:
        environ = clean_environ(self.directory)
        environ["PATH"] = f"{TXBROKER.parent}:{environ['PATH']}"
        environ["TXBROKER_URL"] = self.daemon.url
        return Program.start(words, env=environ, cwd=self.directory)

    def _shell(self, script: str) -> Program:
        script = self._here(script).replace(".venv/bin/", f"{TXBROKER.parent}/").replace("docs/examples/", "")
        return self._start(str(shutil.which("bash")), "-c", script)

    async def _console(self, block: Block) -> None:
        commands = list(_commands(block.text))
        program = self._shell(f"\necho; echo '{BETWEEN}'\n".join(command for command, _ in commands))
        await program.exit()
        outputs = "\n".join(program.lines).split(BETWEEN)
        assert len(outputs) == len(commands) > 0, f"{block}\n{program.report()}"
        for (command, shown), printed in zip(commands, outputs, strict=True):
            assert pattern_of(shown).fullmatch(printed.strip()), f"{block}\n{command}\n{printed}"

    async def _stay(self, block: Block) -> None:
        ((command, shown),) = _commands(block.text)
        program = self._shell(f"exec {command}")
        self._staying.append((block, program))
        first = shown.partition("\n")[0]
        await eventually(lambda: not first or _begins(program, first) or program.status is not None)
        assert program.status is None, f"{block}\n{program.report()}"

    async def _python(self, block: Block, shown: str) -> None:
        source = self._here(block.text)
        if "asyncio.run(" in source:  # it has a loop of its own, and needs no interpreter of its own
            printed = await deferToThread(_run, source)
        else:
            program = self._start(sys.executable, "-c", source)
            assert await program.exit() == 0, f"{block}\n{program.report()}"
            printed = program.lines
        assert pattern_of(shown).fullmatch("\n".join(printed)), f"{block}\n{printed}"

    async def _javascript(self, block: Block, shown: str) -> None:
        source, suffix = block.text, "mjs"
        for name in set(MODULE.findall(source)):
            (self.directory / f"{name}.mjs").write_text((await get(f"{self.daemon.url}/v1/{name}.js")).text)
        source = MODULE.sub(r"./\1.mjs", source)
        if "require(" in source:
            source, suffix = f"(async () => {{\n{source}\n}})()", "cjs"
        path = self.directory / f"block{block.line}.{suffix}"
        path.write_text(self._here(source), "utf-8")
        program = self._start(node_executable(), path)
        try:
            await self._until_printed(block, program, shown)
        finally:
            await program.end()  # one with a socket does not end by itself

    async def _html(self, block: Block, shown: str) -> None:
        self.html.html = self._here(block.text).encode()
        browser = await self.browsers.started()
        await browser.send("Page.navigate", url=self.html.origin)
        await self._until_shown(browser, pattern_of(shown))
        await browser.send("Page.navigate", url="about:blank")  # which ends its connections

    @staticmethod
    async def _until_shown(browser: Browser, wanted: re.Pattern[str]) -> None:
        end = reactor.seconds() + TIMEOUT
        while not wanted.search(text := await browser.run("document.body ? document.body.innerText : ''")):
            assert reactor.seconds() < end, f"{text}\n{browser.troubles}"
            await pause(STEP)

    # Frames and settings

    async def _frames(self, block: Block) -> None:
        if found := SOCKET.match(block.text):
            self.socket_path = found[1]
            self._sockets.pop(self.socket_path, None)
        for name, direction, shown in re.findall(r"^(?:(\w+) )?([<>]) (.*)$", block.text, re.MULTILINE):
            socket = await self._socket(name)
            if direction == ">":
                socket.send(self._with_ids(shown))
            else:
                self._compare(block, shown, await socket.receive())

    async def _socket(self, name: str) -> WebSocket:
        path = self.socket_path + (f"?client={name}" if name else "")
        if path not in self._sockets:
            self._sockets[path] = await ws_connect(self.daemon.ws(path))
            self._opened.append(self._sockets[path])
        return self._sockets[path]

    def _with_ids(self, text: str) -> str:
        for shown, real in self._ids.items():
            text = text.replace(f'"{shown}"', f'"{real}"')
        return text

    def _compare(self, block: Block, shown: str, received: str) -> None:
        if '"type":"request"' in shown:  # the broker gives it an id of its own, by which it is answered
            self._ids[json.loads(shown)["id"]] = json.loads(received)["id"]
        assert pattern_of(self._with_ids(shown)).fullmatch(received), f"{block}\n{shown}\n{received}"


def _commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console with what is shown below it; lines that begin with ``> `` continue one."""
    for part in COMMAND.split(text)[1:]:
        command, *output = part.split("\n")
        while output and (output[0].startswith("> ") or output[0] == ">"):
            command += "\n" + output.pop(0)[2:]
        yield command, "\n".join(output).strip()


def _run(source: str) -> list[str]:
    printed: list[str] = []
    names = {"print": lambda *words, **_: printed.append(" ".join(map(str, words))), "__name__": "__main__"}
    exec(compile(source, "page.rst", "exec"), names)
    return "\n".join(printed).split("\n")


def _printed(program: Program, shown: str) -> bool:
    return pattern_of(shown).fullmatch("\n".join(program.lines).strip()) is not None


def _begins(program: Program, first: str) -> bool:
    return bool(program.lines) and pattern_of(first).fullmatch(program.lines[0]) is not None
