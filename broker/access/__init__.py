"""Who a client is and what it may do: principals, permissions, tokens, limits."""
