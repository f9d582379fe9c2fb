"""A dialect that can be made, and not be started."""

from tests.support.waiter import Dialect as Waiter


class Dialect(Waiter):
    def start(self, peer):
        raise RuntimeError("it never starts")
