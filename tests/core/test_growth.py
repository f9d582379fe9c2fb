"""What an operation takes does not depend on how many topics, queues, consumers, cursors or keys there are."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.growth import CURVES, Operation, calls_of, make_large_broker
from broker.core.service import Broker


def calls_with(curve: Callable[[Broker, int], Operation], size: int) -> float:
    """Return how many functions the operation of *curve* calls with *size* of what there is.

    Each was touched before, and all was done for so long that few operations are timed.
    """
    operation = curve(make_large_broker(), size)
    for number in range(300):
        operation(number)
    return calls_of(operation, 60)


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.__name__)
def test_an_operation_takes_as_many_calls_of_functions_with_few_as_with_many(
    curve: Callable[[Broker, int], Operation],
) -> None:
    assert calls_with(curve, 150) < 1.5 * calls_with(curve, 10)  # by chance, more or fewer are timed
