"""What an operator sees: log lines, metrics, the admin port."""
