"""A plugin that stores webhooks as events, those that GitHub and others sign by HMAC.

``POST /webhook/NAME`` becomes an event of the topic ``webhook.NAME``, which clients of all dialects can follow.
"""

import hashlib
import hmac
from typing import Any

import attrs
from zope.interface import implementer

from broker.config.options import TEXT, option
from broker.interfaces import IHttpDialect, IPeer
from broker.jsontext import check_json
from broker.messages import HttpRequest, Response
from broker.plugins import Counter, with_settings
from broker.sessions import BaseSession

PREFIX = "/webhook/"


@attrs.frozen
class WebhookSettings:
    """``TXBROKER_WEBHOOK_TOPIC`` and ``TXBROKER_WEBHOOK_KEY``."""

    topic: str = option(TEXT, "webhook", "What the topics begin with.")
    key: str = option(TEXT, "", "What senders sign with; without one nothing is accepted.", secret=True)


@implementer(IHttpDialect)
class Webhook(BaseSession):
    """The dialect; it publishes as itself, since a sender has a signature and no credential."""

    name, http_paths = "webhook", (PREFIX,)
    example = "curl -H \"X-Hub-Signature-256: sha256=…\" -d '{{}}' {http}/webhook/github"

    def __init__(self, own: WebhookSettings) -> None:
        """Be the dialect with settings of its *own*."""
        self.own = own
        self.refused = Counter("refused", "Webhooks with a wrong signature.")
        self.metrics = (self.refused,)  # txbroker_webhook_refused_total

    def start(self, peer: IPeer) -> None:
        """Keep the peer that is the dialect's own."""
        peer.bind(self)
        self.peer = peer

    async def answer(self, peer: IPeer, request: HttpRequest) -> Response:
        """Store what is signed, and say so when it is stored.

        What it raises, as for a body that is no JSON, becomes an answer at the port.
        """
        if request.method != "POST":
            return Response(405, headers=(("Allow", "POST"),))
        signature = request.headers.get("x-hub-signature-256", "")
        if not self.own.key or not hmac.compare_digest(signature.encode(), self.expected(request.body).encode()):
            self.refused.value += 1
            return Response(401, b"the signature is wrong\n", "text/plain")
        topic = f"{self.own.topic}.{request.path.removeprefix(PREFIX)}"
        kind = request.headers.get("x-github-event", "webhook")
        key = request.headers.get("x-github-delivery", "")  # what is sent again is stored once
        event = await self.peer.post(topic, kind, check_json(request.body), key=key)
        return Response(201, b'{"id":%d}\n' % event.id)

    def expected(self, body: bytes) -> str:
        """Return the signature that *body* must have."""
        return "sha256=" + hmac.new(self.own.key.encode(), body, hashlib.sha256).hexdigest()


@with_settings("webhook", WebhookSettings)
def dialect(settings: Any, own: WebhookSettings) -> Webhook:
    """Return the dialect; the broker calls this."""
    return Webhook(own)
