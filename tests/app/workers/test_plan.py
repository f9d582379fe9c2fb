"""What a worker is told, and its share of what the daemon may have."""

from __future__ import annotations

import attrs
import pytest

from broker.app.workers.plan import (
    BoundPlace,
    WorkerPlan,
    inherited_sockets,
    share,
    worker_environ,
)
from broker.config.settings import Settings

PLAN = WorkerPlan(2, 3, 77, 5, 6, (BoundPlace("127.0.0.1", 8000, 7), BoundPlace("/run/socket", 0, 8)))
SYSTEMD = {"LISTEN_FDNAMES": "web:admin", "NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "2"}


def test_a_plan_travels_in_the_environment_once():
    environ = worker_environ({"HOME": "/"}, "node", PLAN, [""])
    assert environ["TXBROKER_NODE"] == "node"
    assert environ["PYTHONPATH"].startswith("/")
    assert WorkerPlan.pop_from(environ) == PLAN
    assert "TXBROKER_WORKER" not in environ


def test_sockets_of_systemd_are_handed_on_and_what_it_wants_to_hear_is_not():
    assert inherited_sockets(SYSTEMD) == 2
    environ = worker_environ(SYSTEMD, "node", PLAN, [], inherited_sockets(SYSTEMD))
    assert {name: environ.get(name) for name in (*SYSTEMD, "LISTEN_FDS", "LISTEN_PID")} == {
        "LISTEN_FDNAMES": "web:admin",
        "NOTIFY_SOCKET": None,
        "WATCHDOG_USEC": None,
        "WATCHDOG_PID": None,
        "LISTEN_FDS": "2",
        "LISTEN_PID": "0",
    }


@pytest.mark.parametrize("environ", [{}, {"LISTEN_FDNAMES": "web", "LISTEN_PID": "1", "LISTEN_FDS": "1"}])
def test_sockets_for_another_process_are_left_alone(environ):
    assert inherited_sockets(environ) == 0
    assert "LISTEN_FDS" not in worker_environ({}, "node", PLAN, [], 0)


@pytest.mark.parametrize(("limit", "expected"), [(0, 0), (1, 1), (9, 3), (10, 4)])
def test_a_share_is_never_none(limit, expected):
    assert share(limit, 3) == expected


def test_a_worker_has_its_share_of_each_maximum_and_a_name_of_its_own():
    settings = Settings(node="node", max_connections=10, memory_limit_bytes=300, rate=5.0, max_message_bytes=1000)
    own = PLAN.settings(settings)
    assert (own.max_connections, own.memory_limit_bytes, own.node) == (4, 100, "node-2")
    assert (own.rate, own.max_message_bytes, own.auth_tries) == (5.0, 1000, settings.auth_tries)
    assert own.auth_failures_per_minute == 10
    assert attrs.evolve(own, node="node").listen == settings.listen
