"""The HPKV dialect: keys over WebSocket, as ``@hpkv/websocket-client`` speaks them.

Read on in this order: ``dialect`` (who may connect), ``frames`` (what comes and what
goes back), ``session`` (what a frame does), ``tokens`` (how a browser gets in),
``patterns`` with ``javascript`` (which keys a token is for).
"""

from protocols.hpkv.dialect import dialect

__all__ = ["dialect"]
