"""A headless Chromium that a test drives by the DevTools protocol."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred

from tests.support.chromium import OPTIONS, chromium_executable
from tests.support.daemon import clean_environ
from tests.support.eventually import STEP, TIMEOUT, pause
from tests.support.processes import Program
from tests.support.ws_client import Closed, WebSocket, ws_connect

MORE_OPTIONS = (
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0",
    "about:blank",
)


class Browser:
    """One page of a browser.

    Attributes:
        troubles: what the page has written to the console as an error or a warning, and requests that have failed.
    """

    def __init__(self) -> None:
        self.troubles: list[str] = []
        self._home = Path(tempfile.mkdtemp(prefix="txbroker-browser-"))
        self._program: Program | None = None
        self._socket: WebSocket
        self._session = ""
        self._number = 0
        self._answers: dict[int, Deferred[Any]] = {}

    async def start(self) -> Browser:
        command = [chromium_executable(), f"--user-data-dir={self._home}", *OPTIONS, *MORE_OPTIONS]
        self._program = Program.start(command, env=clean_environ(self._home), cwd=self._home)
        said = await self._program.line(lambda line: "DevTools listening on " in line)
        self._socket = await ws_connect(said.partition("DevTools listening on ")[2].strip())
        ensureDeferred(self._read())
        target = (await self.send("Target.createTarget", url="about:blank"))["targetId"]
        attached = await self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")
        return self

    async def stop(self) -> None:
        self._socket.abort()
        if self._program is not None and self._program.status is None:
            self._program.signal(signal.SIGKILL)
            await self._program.exit()
        shutil.rmtree(self._home, ignore_errors=True)

    async def send(self, method: str, **params: Any) -> Any:
        self._number += 1
        answer = self._answers[self._number] = Deferred()
        said = {"id": self._number, "method": method, "params": params}
        self._socket.send_json({**said, "sessionId": self._session} if self._session else said)
        return await answer.addTimeout(TIMEOUT, reactor)

    async def run(self, script: str) -> Any:
        """Return what the expression *script* is in the page, once it is no promise any more."""
        done = await self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    async def until(self, script: str) -> Any:
        """Return what *script* is once that is true."""
        end = reactor.seconds() + TIMEOUT
        while not (found := await self.run(script)):
            assert reactor.seconds() < end, (
                f"never: {script}\n{self.troubles}\n{await self.run('document.body.innerText')}"
            )
            await pause(STEP)
        return found

    async def key(self, key: str, code: int = 0) -> None:
        """Press a key."""
        about = {"key": key, "windowsVirtualKeyCode": code or ord(key[:1].upper())}
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        await self.send("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    async def type(self, text: str) -> None:
        await self.send("Input.insertText", text=text)

    async def click(self, selector: str) -> None:
        """Click where *selector* is, as a mouse does."""
        place = await self.until(
            f"(() => {{ const found = document.querySelector({json.dumps(selector)}); if (!found) return null;"
            " found.scrollIntoView({block: 'center', inline: 'center'}); const box = found.getBoundingClientRect();"
            " return box.width ? [box.x + box.width / 2, box.y + box.height / 2] : null; })()"
        )
        at = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, **at)

    async def size(self, width: int, height: int, *, phone: bool = False, dark: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        await self.send("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self, path: Path) -> None:
        shot = await self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    async def _read(self) -> None:
        try:
            while True:
                said = json.loads(await self._socket.receive(timeout=10 * TIMEOUT))
                if "id" in said:
                    self._answers.pop(said["id"]).callback(said.get("result", said.get("error")))
                else:
                    self._notice(said["method"], said["params"])
        except Closed:
            return

    def _notice(self, method: str, params: Any) -> None:
        if method == "Runtime.exceptionThrown":
            self.troubles.append(json.dumps(params["exceptionDetails"])[:1000])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.troubles.append(json.dumps(params["args"])[:1000])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.troubles.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
