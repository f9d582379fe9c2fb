"""The messages of its mailbox that a client has asked to acknowledge."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred

from broker.interfaces import ILink, IPeer
from broker.jobs import MAILBOX
from broker.messages import Delivery, Mail
from protocols.owlmeans import wire


@attrs.define(eq=False)
class Mailbox:
    """Sends messages as jobs are sent, and removes each when the client says that it is done.

    Args:
        peer: of the client.
        link: the way out.
        lease: seconds that the client has for one.
        prefetch: how many it may have at once; 0: the client does not acknowledge any more, but what it has.
    """

    _peer: IPeer
    _link: ILink
    _lease: float
    prefetch: int
    _awaited: dict[str, Deferred[bool]] = attrs.field(factory=dict)
    _number: int = 0

    def deliver(self, mail: Mail) -> Deferred[bool] | bool:
        """Send *mail*, and return what fires when it is done; False: the client has as many as it may."""
        if len(self._awaited) >= self.prefetch:
            return False
        self._number += 1
        id = f"{self._peer.id}-{self._number}"
        done: Deferred[bool] = Deferred()
        self._awaited[id] = done
        self._link.send(
            wire.job(Delivery(MAILBOX, mail.ref, mail.body, mail.source, mail.time, id=id, lease=self._lease))
        )
        return done.addBoth(self._forget, id)

    def settle(self, id: str, *, done: bool) -> bool:
        """Remove the message of the delivery *id*, or let it come again; False: there is none."""
        waiting = self._awaited.get(id)
        if waiting is None:
            return False
        if done:
            waiting.callback(True)
        else:
            waiting.cancel()
        self._peer.collect()  # it may have one more now
        return True

    def _forget(self, result: Any, id: str) -> Any:
        self._awaited.pop(id, None)
        return result


def asks_for_mailbox(method: str, arguments: msgspec.Raw) -> bool:
    """Whether a call of *method* says how the messages of the mailbox are to come."""
    return method == "broker.consume" and bytes(arguments).lstrip(b"[ \t\r\n").startswith(b'"%b"' % MAILBOX.encode())
