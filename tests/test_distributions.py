"""What ``pip install txbroker`` brings along is little, and stays so."""

from __future__ import annotations

import configparser
from collections.abc import Iterable
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MAX_DISTRIBUTIONS = 32  # txbroker itself is one
SETTINGS = configparser.ConfigParser()
SETTINGS.read(Path(__file__).parent.parent / "setup.cfg")


def demanded(texts: Iterable[str], extras: set[str]) -> list[Requirement]:
    """Return those of the requirements *texts* that hold here, with these *extras*."""
    found = [Requirement(text) for text in texts]
    marked = [(one, [{"extra": extra} for extra in (extras or {""})]) for one in found]
    return [one for one, given in marked if one.marker is None or any(one.marker.evaluate(extra) for extra in given)]


def resolved(texts: Iterable[str]) -> set[str]:
    """Return the names of the distributions that the requirements *texts* bring along, from their metadata."""
    waiting, seen = demanded(texts, set()), set()
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if (name, frozenset(one.extras)) not in seen:
            seen.add((name, frozenset(one.extras)))
            waiting += demanded(requires(name) or [], one.extras)
    return {name for name, _ in seen}


def listed(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


@pytest.fixture(scope="module")
def base() -> list[str]:
    return listed(SETTINGS["options"]["install_requires"])


def test_an_install_brings_few_distributions(base):
    assert {"twisted", "zope-interface", "msgspec", "cryptography"} <= resolved(
        base
    )  # it looks into its own and theirs
    assert len(resolved(base)) + 1 <= MAX_DISTRIBUTIONS


def test_an_install_with_redis_and_tls_does_so_too(base):
    extras = SETTINGS["options.extras_require"]
    assert len(resolved([*base, *listed(extras["redis"]), *listed(extras["tls"])])) + 1 <= MAX_DISTRIBUTIONS


def test_a_distribution_is_found_by_what_demands_it():
    assert {"idna", "pyopenssl", "cryptography", "cffi"} <= resolved(["twisted[tls]"])
    assert "pyopenssl" not in resolved(["twisted"])
