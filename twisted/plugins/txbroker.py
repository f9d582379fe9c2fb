"""Makes ``twistd broker`` known to twistd."""

from typing import Any

from twisted.application.service import ServiceMaker


class BrokerMaker(ServiceMaker):  # type: ignore[misc]  # its base is not typed
    """Loads the broker when twistd is to run it."""

    @property
    def options(self) -> Any:
        """The class of the options, for which all of the broker is loaded."""
        from broker.app.signals import hold_signals

        hold_signals()
        return super().options


broker = BrokerMaker(
    "txbroker",
    "broker.app.tap",
    "One port, one broker, many wire dialects: WebSocket and HTTP long-poll.",
    "broker",
)
