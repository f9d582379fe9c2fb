"""The client API: what a dialect may ask for, for one client."""

from broker.peer.peer import Peer, make_peer

__all__ = ["Peer", "make_peer"]
