"""Where ``txbroker`` begins: it can be interrupted before it imports the rest, which takes long."""

from __future__ import annotations

from broker.app.interrupts import end_at_once


def main() -> None:
    """Run the command of the command line; SIGINT ends it without a word."""
    end_at_once()
    from broker.app.command import main as run

    run()
