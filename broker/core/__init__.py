"""What the broker does: topics, calls, channels, keys, queues, and the service that joins them."""
