"""txbroker: one daemon, one port, one broker core, many wire dialects.

::

    socket -> web/ -> dialect session -> Peer (the client API) -> topics, calls, channels, keys, queues -> store
                                                                       |
    socket <- link <- dialect session <------- Delivery.arrived(event) <- bus (local or redis)

In through a :class:`~broker.peer.Peer` verb, out through ``core.topics.Delivery``;
nothing else crosses.  What is published goes to the bus and is delivered only
when it comes back from it, so that one node and ten behave alike.  The core
knows no dialect and no transport; a dialect knows no other dialect.

Read on in this order: ``messages``, ``interfaces``, ``peer.client``, ``core.topics``,
``core.channels``, ``core.service``.
"""

__version__ = "0.1.0"
