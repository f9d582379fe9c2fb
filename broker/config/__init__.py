"""The settings: one class of options, read from the environment."""
