"""The port for operators."""
