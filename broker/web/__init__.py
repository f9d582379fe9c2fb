"""The public port: finds the dialect for each request."""
