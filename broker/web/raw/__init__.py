"""Connections of stream dialects: raw bytes, on endpoints of their own."""
