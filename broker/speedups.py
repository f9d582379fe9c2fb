"""The optional accelerator, ``broker/_speedups.c``: what every message passes, as compiled functions.

It is built where the broker is installed from its sources and there is a C compiler.  Where it is not, or is not
wanted, Python code does the same; that code is the reference, and what is odd about a message is always its matter.

Attributes:
    built: the module, or None.
"""

from __future__ import annotations

from types import ModuleType

built: ModuleType | None
try:
    from broker import _speedups as built
except ImportError:
    built = None

AUTO, OFF = "auto", "off"  # the settings


def speedups(setting: str = AUTO) -> ModuleType | None:
    """Return the accelerator if *setting* allows it and it was built, else None."""
    return None if setting == OFF else built
