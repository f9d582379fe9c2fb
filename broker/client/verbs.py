"""What an application can ask a client to do, by names and types; drivers make Deferreds and Futures of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import msgspec

from broker.client import wire
from broker.client.key_verbs import KeyVerbs
from broker.client.outcomes import Operation, Outcome
from broker.client.queue_verbs import QueueVerbs
from broker.client.topic_verbs import TopicVerbs
from broker.client.values import Identity


class _Methods(msgspec.Struct):
    methods: list[str]


_methods = wire.reader(_Methods)


@attrs.define(eq=False)
class Verbs(TopicVerbs, QueueVerbs, KeyVerbs):
    """What is asked of the broker and answered once.

    What changes nothing, or is known to the broker by a key, is asked again after a loss; other things end with
    ``ConnectionLost`` then.  ``timeout`` is in seconds, 0 for none; ``wait`` says whether it waits for a connection.
    """

    def connect(self) -> Outcome[Identity]:
        """Connect, and stay connected until ``close``.  Ends when it is ready, or has given up."""
        return self.core.start()

    def close(self) -> Outcome[None]:
        """Close the connection; what is under way ends with ``Closed``."""
        return self.core.close()

    def settled(self) -> Outcome[None]:
        """Wait until everything that is subscribed to, watched, consumed and performed is so at the broker."""
        return self.core.settled()

    def whoami(self) -> Operation[Identity]:
        """Ask who the client is to the broker."""
        return self.core.ask("broker.whoami", [], wire.reader(Identity), again=True)

    def call(
        self,
        procedure: str,
        *arguments: Any,
        timeout: float | None = None,
        recipient: str = "",
        wait: bool | None = None,
        on_late: Callable[[Any], object] | None = None,
    ) -> Operation[Any]:
        """Call *procedure*; to cancel what is returned cancels the call.

        Args:
            procedure: its name.
            arguments: any JSON.
            timeout: seconds until it ends with ``Timeout``.
            recipient: the client, or session, that is to perform it; "": whoever does.
            wait: whether it waits for a connection.
            on_late: is called with the result if that comes after the deadline.
        """
        return self.core.ask(
            procedure, list(arguments), wire.value_of, timeout=timeout, recipient=recipient, wait=wait, on_late=on_late
        )

    def procedures(self, pattern: str = ">") -> Operation[list[str]]:
        """List the procedures that you may call."""
        return self.core.ask("broker.methods", [pattern], lambda data: _methods(data).methods, again=True)
