"""WebSocket: the upgrade, the frames, the heartbeat."""
