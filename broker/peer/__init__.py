"""The client API: what a dialect may ask for, for one client."""

from broker.peer.peer import Peer

__all__ = ["Peer"]
