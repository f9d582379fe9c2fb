"""The verbs of mailboxes, and of messages to work queues."""

from __future__ import annotations

from twisted.internet.defer import Deferred, ensureDeferred

from broker.errors import Denied, Gone, Invalid
from broker.jobs import is_queue_of_broker
from broker.messages import MAX_TIME, CloseCode, Mail, Quota, quota_of
from broker.patterns import CLIENT, DEFAULT_QUEUE, QUEUE, belongs_to_broker, check_name
from broker.peer.client import Client


class QueueVerbs(Client):
    """Send messages, and get those of the mailbox."""

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
        if is_queue_of_broker(queue.removeprefix(QUEUE)):
            raise self.deny("send", queue, "")
        mail = self._mail(queue.removeprefix(QUEUE), ref, body, time)
        return self._parts.jobs.put(mail, self._queues()).addCallback(_nothing_dropped)

    def _queues(self) -> Quota:
        return quota_of("queues", self.identity.kind, self.identity.name, self._parts.settings.max_queues)

    async def _send(self, client: str, ref: str, body: bytes, time: float) -> bool:
        sessions = self._parts.presence.sessions(client)
        if sessions and sessions[0].client != client:  # a session id: it has no mailbox
            taken = sessions[0].post_mail(self._mail(CLIENT + client, ref, body, time))
            if not (await taken if isinstance(taken, Deferred) else taken):
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
        self._parts.jobs.collect(self)

    def _empty_mailbox(self) -> None:
        mailbox = CLIENT + self.client
        # One without a name is new: nothing waits for it but what it has declined.
        if self.identity.client or self.named or self._parts.queues.is_known(mailbox):
            self._parts.queues.drain(mailbox)


def _nothing_dropped(_: object) -> bool:
    return False
