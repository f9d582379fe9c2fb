"""A plugin of pytest: lets the broker have the accelerator that ``tests.speedups.sanitize`` has built."""

from tests.speedups.build import load_from_environment

load_from_environment()
