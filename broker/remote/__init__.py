"""What the core does when there are other nodes: calls, mail and takeovers between them."""

from broker.remote.calls import RemoteCalls
from broker.remote.neighbours import Neighbours
from broker.remote.queues import SharedQueues

__all__ = ["Neighbours", "RemoteCalls", "SharedQueues"]
