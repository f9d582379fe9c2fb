"""The tests; contracts that several modules inherit tell in detail what failed."""

import pytest

pytest.register_assert_rewrite("tests.store_contract", "tests.bus_contract")
