"""HTTP/1.1: from bytes to a request, from a response to bytes."""
