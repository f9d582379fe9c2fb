"""The native dialect: what ``@owlmeans/socket`` speaks, over WebSocket.

One JSON object a frame.  Read on in this order: ``dialect`` (who may connect), ``wire`` (how
frames look), ``session`` (what each of them does), ``outgoing`` (what a client is sent), ``auth``
(who it is), ``reserved`` (what can be asked of the broker itself), ``marshalled`` (how errors are
written).
"""

from protocols.owlmeans.dialect import OwlMeans, dialect

__all__ = ["OwlMeans", "dialect"]
