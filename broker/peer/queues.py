"""The verbs of mailboxes and work queues."""

from __future__ import annotations

from twisted.internet.defer import Deferred, ensureDeferred

from broker.errors import Denied, Gone, Invalid, RateLimited
from broker.messages import MAX_TIME, CloseCode, Mail, Quota, quota_of
from broker.patterns import CLIENT, DEFAULT_QUEUE, QUEUE, belongs_to_broker, check_name
from broker.peer.client import Client


class QueueVerbs(Client):
    """Send messages and consume them."""

    __slots__ = ()

    def appear(self) -> None:
        """See ``IPeer.appear``."""
        try:
            self._check_id(self.client, "identify")
        except Denied:  # who is called so came after it had taken that name
            self.disconnect(CloseCode.GOING_AWAY, "replaced")
            self.close()
            return
        self._parts.presence.enter(self)
        self._empty_mailbox()

    def enqueue(self, ref: str, body: bytes, *, recipient: str = "", time: float = 0.0) -> Deferred[bool]:
        """See ``IPeer.enqueue``."""
        queue = recipient or DEFAULT_QUEUE
        self._allow("send", queue)
        check_name(queue, "recipient")
        if belongs_to_broker(queue.removeprefix(QUEUE)):
            raise self.deny("send", queue, "")
        if queue == QUEUE or not 0 <= time <= MAX_TIME:
            raise Invalid("recipient" if queue == QUEUE else "time")
        if not queue.startswith(QUEUE):
            return ensureDeferred(self._send(queue, ref, body, time))
        return self._parts.queues.put(self._mail(queue, ref, body, time), self._queues())

    def _queues(self) -> Quota:
        return quota_of("queues", self.identity.kind, self.identity.name, self._parts.settings.max_queues)

    async def _send(self, client: str, ref: str, body: bytes, time: float) -> bool:
        sessions = self._parts.presence.sessions(client)
        if sessions and sessions[0].client != client:  # a session id: it has no mailbox
            if not sessions[0].post_mail(self._mail(CLIENT + client, ref, body, time)):
                raise Gone("recipient", client)
            return False
        if not sessions and not await self._parts.mailboxes.has(client) and not self._names_explicitly(client):
            if not await self._parts.cluster.deliver(client, self._mail(CLIENT + client, ref, body, time)):
                raise Gone("recipient", client)
            return False
        return await self._parts.queues.put(self._mail(CLIENT + client, ref, body, time), self._queues())

    def _names_explicitly(self, client: str) -> bool:
        grants = self.identity.grants
        return grants is not None and client in grants.names("send")

    def _mail(self, queue: str, ref: str, body: bytes, time: float) -> Mail:
        return Mail(queue, ref, body, self.client, time or self._parts.store.wall.time())

    def collect(self) -> None:
        """See ``IPeer.collect``."""
        self._empty_mailbox()
        for queue in self.consumed:
            self._parts.queues.drain(QUEUE + queue)

    def _empty_mailbox(self) -> None:
        mailbox = CLIENT + self.client
        # One without a name is new: nothing waits for it but what it has declined.
        if self.identity.client or self.named or self._parts.queues.is_known(mailbox):
            self._parts.queues.drain(mailbox)

    def consume(self, queue: str) -> None:
        """See ``IPeer.consume``."""
        self._allow("consume", QUEUE + queue)
        check_name(queue, "queue")
        self._own("consume", queue)
        if len(self.consumed) >= self._parts.settings.max_registrations:
            raise self._log(RateLimited("limit", "registrations"), "consume", "TXBROKER_MAX_REGISTRATIONS")
        self._parts.queues.consumers.add(self, QUEUE + queue, shared=True)
        self._parts.cluster.hold(QUEUE + queue)
        self._parts.queues.drain(QUEUE + queue)

    def stop_consuming(self, queue: str) -> None:
        """See ``IPeer.stop_consuming``."""
        if self._parts.queues.consumers.remove(self, QUEUE + queue):
            self._parts.queues.left(QUEUE + queue)
            self._parts.cluster.release((QUEUE + queue,))

    @property
    def consumed(self) -> list[str]:
        """See ``IPeer.consumed``."""
        return [name.removeprefix(QUEUE) for name in self._parts.queues.consumers.names_of(self)]
