"""Fuzzes the accelerator, guided by its coverage, with Atheris.

``pip install atheris``, and build the accelerator with clang::

    CC=clang python -m tests.speedups.build DIRECTORY -fsanitize=address,undefined,fuzzer-no-link -O1 -g

Then ``python -m tests.speedups.fuzz [options of libFuzzer] CORPUS`` runs until a check fails, with
``TXBROKER_TESTED_SPEEDUPS``, which names what was built, ``LD_PRELOAD``, which names the ``asan_with_fuzzer.so`` of
Atheris, and ``PYTHONMALLOC=malloc``.
"""

from __future__ import annotations

import sys
from typing import Any

from tests.speedups.build import load_from_environment

load_from_environment()

from tests.speedups.checks import check_envelope, check_frames, check_text  # noqa: E402

FORM = b'{"a":%b,"b":%d,"c":%b}'


def one_input(data: bytes) -> None:
    """Do with *data* what its first byte says."""
    kind, rest = data[:1], data[1:]
    if kind < b"\x60":
        check_frames(rest, limit=int.from_bytes(rest[:1], "big") * 300)
    elif kind < b"\xd0":
        check_envelope(rest)
    else:
        text = rest.decode("utf-8", "replace")
        check_text(FORM, (text, len(rest) * 1_000_003, rest))


def main() -> None:
    """Run until a check fails, or as long as the options say."""
    import atheris

    fuzzer: Any = atheris
    fuzzer.Setup(sys.argv, one_input)
    fuzzer.Fuzz()


if __name__ == "__main__":
    main()
