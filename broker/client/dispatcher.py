"""Who gets the frames that come."""

from __future__ import annotations

from typing import Any

import attrs

from broker.client import wire
from broker.client.authentication import Authentication
from broker.client.consumers import Consumer, give_back
from broker.client.context import Context
from broker.client.errors import error_of
from broker.client.notices import Gap, Notice
from broker.client.pending import Pending
from broker.client.procedures import Procedures
from broker.client.registry import Registry
from broker.client.requests import Requests
from broker.client.states import Driver
from broker.client.subscriptions import Subscription
from broker.client.watches import Watch
from broker.client.wire import Frame

KEY_PREFIX = "kv/"  # of the events of watches


@attrs.define(eq=False)
class Dispatcher:
    """Hands each frame to the part of a client that waits for it."""

    context: Context
    driver: Driver
    registry: Registry
    pending: Pending
    requests: Requests
    procedures: Procedures
    authentication: Authentication

    def dispatch(self, frame: Frame) -> None:
        """Hand *frame* on; one that nobody waits for is dropped."""
        match frame.type:
            case "result" | "error":
                self.pending.on_answer(frame)
            case "event":
                self._on_event(frame)
            case "message":
                found = self.registry.get(Consumer.kind, frame.queue)
                if isinstance(found, Consumer):
                    found.on_job(frame)
                elif frame.queue:  # it was on its way when the consumer ended
                    give_back(self.context, frame.queue, [str(frame.id)])
            case "response":
                self.requests.on_response(str(frame.id), frame.payload)
            case "call":
                self.procedures.on_call(str(frame.id), frame.method, frame.payload, frame.sender)
            case "request":
                self.procedures.on_request(str(frame.id), frame.payload, frame.sender)
            case "auth":
                self.authentication.on_answer(frame)
            case "system":
                self._on_system(frame)

    def _on_event(self, frame: Frame) -> None:
        found = self.registry.get(Subscription.kind, frame.event)
        if frame.event.startswith(KEY_PREFIX):
            watch = self.registry.get(Watch.kind, frame.event[len(KEY_PREFIX) :])
            if isinstance(watch, Watch) and (found is None or watch.has(frame)):
                found = watch
        if isinstance(found, Watch | Subscription):
            found.on_event(frame)

    def _on_system(self, frame: Frame) -> None:
        found = wire.value_of(frame.payload) if frame.payload else {}
        payload: dict[str, Any] = found if isinstance(found, dict) else {}
        match frame.event:
            case "broker.gap":
                topic, why = str(payload.get("topic", "")), str(payload.get("why", "slow"))
                self._on_gap(Gap(topic, why, payload.get("from"), payload.get("to"), payload.get("count")))
            case "broker.cancel":
                self.procedures.on_cancel(str(frame.id))
            case "broker.expiring":
                left = payload.get("left", 0)
                self.context.notify(Notice("expiring", delay=left / 1000 if isinstance(left, int | float) else 0.0))
                if self.driver.renewable:
                    self.driver.renew()
            case "broker.error":
                error = error_of(str(payload.get("error", "")))
                self.context.notify(Notice("error", error.message, error=error))

    def _on_gap(self, gap: Gap) -> None:
        """Tell who waits for what can not be had, or else the application."""
        concerned: list[Subscription | Watch] = []
        for each in self.registry.all():
            match each:
                case Subscription() if each.covers(gap.topic):
                    concerned.append(each)
                case Watch() if gap.topic == KEY_PREFIX + each.name:
                    concerned.append(each)
        for each in concerned:
            each.on_gap(gap)
        if not concerned:
            self.context.notify(Notice("gap", gap.why, gap=gap))
