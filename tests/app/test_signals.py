"""Signals, as operators, logrotate and scripts send them to a daemon."""

import os
import signal
import subprocess
import sys

import pytest
import pytest_twisted

from broker.app.signals import FAULTS, LEFT_ALONE, STOPS, name_of
from tests.support import http_client
from tests.support.daemon import ROOT, WITH_METRICS
from tests.support.eventually import eventually
from tests.support.ws_client import ws_connect

UNMEASURED = {"TXBROKER_PROTOCOLS": "tests.support.waiter:Dialect"}
LOGGED = [number for number in signal.valid_signals() if number not in LEFT_ALONE | FAULTS | STOPS]
OBEYED = {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def daemon_environ():
    return UNMEASURED


LOADING = """
import os, signal
from twisted.plugins.txbroker import broker
from broker.app.signals import catch_signals

broker.module = "json"  # it takes less time to load
try:
    broker.options
except AttributeError:
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGRTMIN)

class Reactor:
    callFromThread = staticmethod(lambda act: act())

catch_signals(Reactor, {signal.SIGHUP: lambda: print("reloaded", flush=True)})
print("caught", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print("not here")
"""


def test_signals_that_come_while_it_is_loaded_end_it_in_order_or_wait():
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", LOADING], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "reloaded\ncaught\n", "")


async def say(daemon, number, words):
    """Send the signal *number*; return when a line of the log has *words*."""
    daemon.program.signal(number)
    await eventually(lambda: any(words in str(event["msg"]) for event in daemon.events()))


@pytest_twisted.ensureDeferred
async def test_no_signal_that_means_nothing_here_ends_it(shared_daemon):
    for number in LOGGED:
        if number not in OBEYED:
            await say(shared_daemon, number, f"{name_of(number)} does nothing here")
    assert (await http_client.get(shared_daemon.url + "/health")).status == 200


@pytest_twisted.ensureDeferred
async def test_hup_and_usr1_without_a_file_of_the_log_are_obeyed(shared_daemon):
    await say(shared_daemon, signal.SIGUSR1, "the log was opened again")
    await say(shared_daemon, signal.SIGHUP, "reloaded: nothing has changed")
    assert (await http_client.get(shared_daemon.url + "/health")).status == 200


@pytest_twisted.ensureDeferred
async def test_usr2_lets_clients_go_and_takes_none_but_goes_on_until_it_is_stopped(start_daemon):
    daemon = await start_daemon(**UNMEASURED)
    poll, socket = http_client.get(daemon.url + "/poll"), await ws_connect(daemon.ws("/socket"))
    await http_client.get(daemon.url + "/health")
    await say(daemon, signal.SIGUSR2, "draining: clients are closed")
    assert (await poll).body == b"[]"
    assert await socket.closed() == (1001, "leaving")
    await say(daemon, signal.SIGHUP, "drained: no client is left")
    for path, status in (("/health", 200), ("/ready", 503), ("/poll", 503)):
        assert (await http_client.get(daemon.url + path)).status == status
    assert await daemon.stop() == 0


@pytest_twisted.ensureDeferred
async def test_reload_closes_who_lost_his_key_and_nobody_else(start_daemon, short_path, soak):
    keys, count = short_path / "keys", 500 if soak else 20
    keys.write_text("kept:key-of-who-stays gone:key-of-who-goes")
    daemon = await start_daemon(TXBROKER_PROTOCOLS="owlmeans", TXBROKER_API_KEYS_FILE=str(keys), **WITH_METRICS)
    daemon.provoked.append("not reloaded")
    sockets = [await ws_connect(daemon.ws("/owlmeans?token=key-of-who-stays")) for _ in range(count)]
    gone = await ws_connect(daemon.ws("/owlmeans?token=key-of-who-goes"))
    await daemon.until_metric('txbroker_connections{dialect="owlmeans"}', count + 1)
    keys.write_text("these are no keys")
    await say(daemon, signal.SIGHUP, "not reloaded, all is as it was: TXBROKER_API_KEYS_FILE: expected name:key pairs")
    keys.write_text("kept:key-of-who-stays new:key-of-who-comes")
    await say(daemon, signal.SIGHUP, "TXBROKER_API_KEYS (new: new; removed: gone) (clients disconnected: 1)")
    assert (await gone.closed())[0] == 1008
    sockets.append(await ws_connect(daemon.ws("/owlmeans?token=key-of-who-comes")))
    await daemon.until_metric('txbroker_connections{dialect="owlmeans"}', count + 1)
    for socket in sockets:
        socket.abort()
