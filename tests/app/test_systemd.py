"""What systemd is told, and what it gives the daemon to run with."""

import os
import socket

import pytest
from twisted.internet.task import Clock

from broker.app.systemd import answer_watchdog, notify_reloading, notify_systemd, watchdog_seconds


@pytest.fixture
def manager(short_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(short_path / "notify"))
        yield manager


def heard(manager):
    found = []
    while True:
        try:
            found.append(manager.recv(1000).decode())
        except BlockingIOError:
            return found


def test_states_are_lines_of_one_message(manager):
    notify_systemd("READY=1", "STATUS=well")
    assert heard(manager) == ["READY=1\nSTATUS=well"]


def test_reload_has_the_time_since_boot(manager):
    notify_reloading()
    (message,) = heard(manager)
    assert message.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert message.rpartition("=")[2].isdecimal()


def test_manager_that_has_gone_is_no_error(monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    notify_systemd("READY=1")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "7"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "8"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_watchdog_says_when_it_wants_to_hear_of_which_process(environ, seconds):
    assert watchdog_seconds(environ, 7) == seconds


def test_watchdog_hears_of_a_reactor_that_runs_and_of_no_other(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    clock = Clock()
    answer_watchdog(clock)
    clock.pump([10.0, 10.0])
    assert heard(manager) == ["WATCHDOG=1"] * 3
    assert heard(manager) == []


def test_without_a_watchdog_nobody_is_told(manager, monkeypatch):
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    clock = Clock()
    answer_watchdog(clock)
    assert clock.getDelayedCalls() == []
