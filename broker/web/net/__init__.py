"""Sockets: transports that gather frames, and the reactor loop that flushes them."""
