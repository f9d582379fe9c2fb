"""permessage-deflate (RFC 7692), for links that have to cross slow lines."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from autobahn.websocket.compress import PerMessageDeflate, PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.protocol import WebSocketProtocol

from broker.messages import Frame
from broker.web.ws.autobahn import OPEN
from broker.web.ws.link import WebSocketLink

MIN_COMPRESSED_BYTES = 512  # bytes: what is shorter goes faster as it is
NAME = "permessage-deflate"
COMPRESSED = 4  # the extension bits of a frame: 7.2.1, "set the Per-Message Compressed bit"


# Autobahn has this as a method, which uses nothing of its object.
parse_extensions = partial(cast(Any, WebSocketProtocol)._parseExtensionsHeader, None)


def agree(field: str) -> tuple[PerMessageDeflate, str] | None:
    """Return the compressor to use, and what to answer, for a ``Sec-WebSocket-Extensions`` field.

    None when nothing is offered that can be agreed to.
    """
    for name, parameters in parse_extensions(field):
        if name != NAME:
            continue
        try:
            offer = PerMessageDeflateOffer.parse(parameters)
        except Exception:
            # 5.1: "A server MUST decline an extension negotiation offer for this extension if …"
            # Autobahn raises plain exceptions for all of these.
            continue
        accept = PerMessageDeflateOfferAccept(offer)
        return PerMessageDeflate.create_from_offer_accept(True, accept), accept.get_extension_string()
    return None


class CompressedLink(WebSocketLink):
    """A link that compresses what is worth it."""

    def send(self, payload: bytes) -> None:
        """Send one text message."""
        if self.state == OPEN and len(payload) >= MIN_COMPRESSED_BYTES:
            self._send_compressed(payload, 1)
        else:
            super().send(payload)

    def send_binary(self, payload: bytes) -> None:
        """Send one binary message."""
        if self.state == OPEN and len(payload) >= MIN_COMPRESSED_BYTES:
            self._send_compressed(payload, 2)
        else:
            super().send_binary(payload)

    def send_frame(self, frame: Frame) -> None:
        """Send a message that was built once for many receivers."""
        if self.state == OPEN and frame.size >= MIN_COMPRESSED_BYTES:
            self._send_compressed(frame.payload, frame.wire[0] & 0x0F)
        else:
            super().send_frame(frame)

    def _send_compressed(self, payload: bytes, opcode: int) -> None:
        compressor: Any = self._perMessageCompress
        compressor.start_compress_message()
        data = compressor.compress_message_data(payload) + compressor.end_compress_message()
        self.sendFrame(opcode, data, rsv=COMPRESSED)
        self.traffic.messages_out += 1
        self.traffic.bytes_out += len(data)
