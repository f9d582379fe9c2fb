"""Makes ``twistd broker`` known to twistd."""

from twisted.application.service import ServiceMaker

broker = ServiceMaker(
    "txbroker",
    "broker.app.tap",
    "One port, one broker, many wire dialects: WebSocket and HTTP long-poll.",
    "broker",
)
