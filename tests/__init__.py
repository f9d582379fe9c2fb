"""The tests; contracts that several modules inherit tell in detail what failed."""

import pytest

pytest.register_assert_rewrite("tests.stores.store_contract", "tests.buses.bus_contract")
