"""The HPKV dialect: keys over WebSocket, as ``@hpkv/websocket-client`` speaks them.

Read on in this order: ``dialect`` (who may connect), ``session`` (frames and
operations), ``answers`` (what goes back), ``tokens`` (how a browser gets in),
``patterns`` and ``regex`` (which keys a token is for).
"""

from protocols.hpkv.dialect import dialect

__all__ = ["dialect"]
