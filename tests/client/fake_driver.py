"""A driver of the Python client without input and output: the clock stands still, and the test is the broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attrs

from broker.client.core import Core
from broker.client.notices import Notice
from broker.client.options import Options
from broker.client.outcomes import Outcome
from broker.client.procedures import Invocation
from broker.client.states import State
from broker.client.verbs import Verbs

IDENTITY = {"id": "me", "session": "s1", "stage": "init"}


@attrs.define(eq=False)
class FakeDriver:
    """Keeps what the core wants."""

    renewable: bool = False
    sent: list[dict[str, Any]] = attrs.field(factory=list)
    acts: list[str] = attrs.field(factory=list)
    urls: list[str] = attrs.field(factory=list)
    notices: list[Notice] = attrs.field(factory=list)
    invocations: list[Invocation] = attrs.field(factory=list)
    on_notice: Callable[[Notice], object] | None = None

    def connect(self, url: str) -> None:
        self.urls.append(url)
        self.acts.append("connect")

    def send(self, data: bytes) -> None:
        self.sent.append(json.loads(data))

    def close(self) -> None:
        self.acts.append("close")

    def abort(self) -> None:
        self.acts.append("abort")

    def wake(self, when: float) -> None:
        pass

    def renew(self) -> None:
        self.acts.append("renew")

    def invoke(self, invocation: Invocation) -> None:
        self.invocations.append(invocation)

    def notify(self, notice: Notice) -> None:
        self.notices.append(notice)
        if self.on_notice is not None:
            self.on_notice(notice)


class Bench:
    """A core with its driver, and what a test does with them."""

    def __init__(self, **settings: Any) -> None:
        self.now = 1000.0
        self.driver = FakeDriver(renewable=settings.pop("renewable", False))
        options = Options(settings.pop("url", "ws://broker/"), **{"first_wait": 1.0, "max_wait": 8.0, **settings})
        self.core = Core(options, self.driver, lambda: self.now, lambda: 0.5)
        self.verbs = Verbs(self.core)

    @property
    def state(self) -> State:
        return self.core.state

    @property
    def kinds(self) -> list[str]:
        return [notice.kind for notice in self.driver.notices]

    def take(self) -> list[dict[str, Any]]:
        """Return what was sent, and forget it."""
        sent, self.driver.sent = self.driver.sent, []
        return sent

    def methods(self) -> list[str]:
        return [frame.get("method", frame["type"]) for frame in self.take()]

    def advance(self, seconds: float) -> None:
        """Let time go on, from one timer to the next."""
        end = self.now + seconds
        while True:
            due = self.core.tick()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
        self.now = end
        self.core.tick()

    def receive(self, **frame: Any) -> None:
        self.core.received(json.dumps(frame).encode())

    def answer(self, frame: dict[str, Any], payload: Any) -> None:
        self.receive(type="result", id=frame["id"], payload=payload, sender="broker", dt=1)

    def refuse(self, frame: dict[str, Any], error: str, **more: Any) -> None:
        self.receive(type="error", id=frame["id"], payload=error, sender="broker", dt=1, **more)

    def connected(self) -> Bench:
        """Connect, and be greeted; forget what was sent for that."""
        if self.state is State.IDLE:
            self.core.start().listen(_ignore, _ignore)
        self.core.connected()
        (whoami,) = (frame for frame in self.take() if frame.get("method") == "broker.whoami")
        self.answer(whoami, IDENTITY)
        return self

    def back(self) -> Bench:
        """Come back after a loss."""
        while self.state is State.WAITING:
            self.advance(0.1)
        return self.connected()

    def lose(self, code: int = 1006) -> None:
        self.core.disconnected(code, "lost")


def _ignore(_: object) -> None:
    pass


class End:
    """How an outcome has ended."""

    def __init__(self, outcome: Outcome[Any]) -> None:
        self.results: list[Any] = []
        self.errors: list[str] = []
        self.error: Exception | None = None
        outcome.listen(self.results.append, self._fail)

    def _fail(self, error: Exception) -> None:
        self.error = error
        self.errors.append(getattr(error, "code", ""))

    @property
    def pending(self) -> bool:
        return not self.results and not self.errors
