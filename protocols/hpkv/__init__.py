"""The HPKV dialect: keys over WebSocket, as ``@hpkv/websocket-client`` speaks them.

Read on in this order: ``dialect`` (who may connect), ``operation`` (a frame that
comes), ``session`` (what it does), ``answers`` (what goes back), ``tokens`` (how
a browser gets in), ``patterns`` with ``javascript`` (which keys a token is for).
"""

from protocols.hpkv.dialect import dialect

__all__ = ["dialect"]
