"""``twistd broker`` as the operator meets it: start, failed start, signals, logs."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_twisted

from broker import __version__
from broker.config.settings import PROTOCOLS
from broker.speedups import speedups
from tests.support import http_client
from tests.support.daemon import TWISTD, Daemon
from tests.support.eventually import TIMEOUT, eventually
from tests.support.processes import Program
from tests.support.ws_client import ws_connect

# So that coverage sees into the process, which runs nothing but this code.
MEASURED = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
UNMEASURED = {"TXBROKER_PROTOCOLS": "tests.support.waiter:Dialect"}
WAITER = {**UNMEASURED, **MEASURED}
ENDLESS = "600"  # seconds: a test that waits for these fails
pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def daemon_environ():
    return UNMEASURED


async def failed_start(directory: Path, **environ: str) -> tuple[int, str]:
    """Return the status and the words of a daemon that can not start."""
    program = Daemon(directory, **{**UNMEASURED, **environ}).spawn()
    status = await program.exit()
    return status, "\n".join(program.lines)


@pytest_twisted.ensureDeferred
async def test_ready_line_has_the_address_and_a_line_to_try_each_dialect(daemon):
    line = json.loads(await daemon.program.line(lambda line: "try waiter" in line))
    assert f"txbroker {__version__} is ready at {daemon.url}" in [event["msg"] for event in daemon.events()]
    assert line["msg"] == f"try waiter: curl '{daemon.url}/poll?room=1'"
    answer = await http_client.get(daemon.url + "/ready")
    assert (answer.status, answer.json()) == (200, {"ready": True})


@pytest_twisted.ensureDeferred
async def test_about_tells_what_it_is(daemon):
    about = (await http_client.get(daemon.url + "/about")).json()
    assert (about["name"], about["version"], about["dialects"]) == ("txbroker", __version__, ["waiter"])
    assert about["durability"] == "fsync"


@pytest_twisted.ensureDeferred
async def test_all_dialects_are_spoken_unless_told_otherwise(start_daemon):
    daemon = await start_daemon(**MEASURED)
    about = (await http_client.get(daemon.url + "/about")).json()
    assert about["dialects"] == list(PROTOCOLS)
    assert about["durability"] == "fsync"
    assert about["speedups"] is (speedups() is not None)
    tried = [event["msg"].split()[1] for event in daemon.events() if event["msg"].startswith("try ")]
    assert tried == [f"{name}:" for name in PROTOCOLS]


@pytest_twisted.ensureDeferred
async def test_the_accelerator_can_be_switched_off(start_daemon):
    daemon = await start_daemon(TXBROKER_SPEEDUPS="off")
    assert (await http_client.get(daemon.url + "/about")).json()["speedups"] is False


@pytest_twisted.ensureDeferred
async def test_sigterm_answers_polls_closes_sockets_and_ends_with_status_0(start_daemon):
    daemon = await start_daemon(**WAITER, TXBROKER_DRAIN_SECONDS=ENDLESS)
    polls = [http_client.get(daemon.url + "/poll") for _ in range(3)]
    sockets = [await ws_connect(daemon.ws("/socket")) for _ in range(3)]
    await http_client.get(daemon.url + "/health")
    daemon.program.signal(signal.SIGTERM)
    assert [(await poll).body for poll in polls] == [b"[]"] * 3
    assert [await socket.closed() for socket in sockets] == [(1001, "leaving")] * 3
    assert await daemon.program.exit() == 0


@pytest_twisted.ensureDeferred
async def test_sigint_does_not_wait_for_those_who_stay(start_daemon):
    daemon = await start_daemon(**WAITER, TXBROKER_DRAIN_SECONDS=ENDLESS)
    connection = await ws_connect(daemon.ws("/socket"))
    connection.mute()
    with socket.create_connection(("127.0.0.1", daemon.port)) as half:
        half.sendall(b"POST /poll HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n...")
        await http_client.get(daemon.url + "/health")
        daemon.program.signal(signal.SIGINT)
        assert await daemon.program.exit(TIMEOUT / 2) == 0  # before the rest of the request is given up
    connection.abort()


@pytest_twisted.ensureDeferred
async def test_a_second_signal_cuts_the_wait_short(start_daemon):
    daemon = await start_daemon(**WAITER, TXBROKER_DRAIN_SECONDS=ENDLESS)
    address = ("127.0.0.1", daemon.port)
    with socket.create_connection(address) as half, socket.create_connection(address, TIMEOUT) as idle:
        half.sendall(b"POST /poll HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n...")
        await http_client.get(daemon.url + "/health")
        daemon.program.signal(signal.SIGTERM)
        assert idle.recv(1) == b""  # it drains
        daemon.program.signal(signal.SIGINT)
        assert await daemon.program.exit(TIMEOUT / 2) == 0  # before the rest of the request is given up


@pytest_twisted.ensureDeferred
async def test_two_signals_at_once_are_one(daemon):
    daemon.program.signal(signal.SIGTERM)
    daemon.program.signal(signal.SIGINT)
    assert await daemon.program.exit() == 0


@pytest_twisted.ensureDeferred
async def test_drain_is_limited_for_a_client_that_does_not_answer_the_close(start_daemon):
    daemon = await start_daemon(**WAITER, TXBROKER_DRAIN_SECONDS="0.5")
    connection = await ws_connect(daemon.ws("/socket"))
    connection.mute()
    assert await daemon.stop() == 0
    connection.abort()


@pytest_twisted.ensureDeferred
async def test_bad_settings_end_it_with_status_2_and_all_reasons(short_path):
    status, words = await failed_start(short_path, TXBROKER_RATE="fast", TXBROKER_DURABILITY="maybe")
    assert status == 2
    assert words.splitlines() == [
        "txbroker can not start:",
        "  TXBROKER_DURABILITY: expected one of fsync, os, not 'maybe'",
        "  TXBROKER_RATE: expected a number that is not negative, not 'fast'",
    ]


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"TXBROKER_PROTOCOLS": "dodo"}, "dialect dodo: there is no module protocols.dodo"),
        ({"TXBROKER_STORE": "papyrus:"}, "There is no store 'papyrus'"),
        ({"TXBROKER_BUS": "horse:"}, "no such bus: horse:"),
        ({"TXBROKER_ALLOWED_ORIGINS": "app.example"}, "TXBROKER_ALLOWED_ORIGINS: 'app.example' is no origin"),
        (
            {"TXBROKER_LISTEN": "pigeon:interface=127.0.0.1"},
            "TXBROKER_LISTEN: pigeon:interface=127.0.0.1 is no endpoint",
        ),
        ({"TXBROKER_LISTEN": "tcp:99999:interface=127.0.0.1"}, "99999 is no port"),
        ({"TXBROKER_STORE": "rediss://host?ca=missing.pem"}, "ca names, missing.pem, can not be read: No such file"),
        ({"TXBROKER_JWT_PUBLIC_KEY_FILE": "."}, "TXBROKER_JWT_PUBLIC_KEY_FILE: . can not be read: it is a directory"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_does_not_exist_ends_it_with_status_2(short_path, environ, reason):
    status, words = await failed_start(short_path, **environ)
    assert status == 2
    assert reason in words
    assert "Traceback" not in words


@pytest_twisted.ensureDeferred
async def test_taken_port_ends_it_with_status_1_in_plain_words(daemon, short_path):
    status, words = await failed_start(short_path, TXBROKER_LISTEN=f"tcp:{daemon.port}:interface=127.0.0.1")
    assert status == 1
    assert words.startswith("txbroker: TXBROKER_LISTEN: Couldn't listen on 127.0.0.1:")
    assert "Traceback" not in words


@pytest_twisted.ensureDeferred
async def test_store_that_can_not_be_opened_ends_it_with_status_1(short_path):
    (short_path / "txbroker.db").write_text("this is no database, and it is long enough to be taken for none" * 20)
    status, words = await failed_start(short_path)
    assert status == 1
    assert words.startswith("txbroker: ")
    assert "txbroker.db" in words
    assert "Traceback" not in words


@pytest_twisted.ensureDeferred
async def test_warnings_of_the_settings_are_logged(start_daemon):
    daemon = await start_daemon(**WAITER, TXBROKER_RATES="5")
    (warning,) = [event for event in daemon.events() if event["level"] == "warn"]
    assert warning["msg"] == "TXBROKER_RATES is not a setting; did you mean TXBROKER_RATE?"


@pytest_twisted.ensureDeferred
async def test_no_secret_reaches_a_log(start_daemon):
    daemon = await start_daemon(**UNMEASURED, TXBROKER_API_SECRET="hunter22", TXBROKER_LOG_LEVEL="debug")
    daemon.provoked.append("RuntimeError")
    for query in ("secret=hunter22", "token=other33", "x=1&apiKey=other33"):
        answer = await http_client.get(f"{daemon.url}/fail?{query}", headers={"Authorization": "Bearer other33"})
        assert answer.status == 500
    connection = await ws_connect(daemon.ws("/socket?token=other33"))
    connection.send("hunter22")
    await connection.closed()
    await daemon.stop()
    assert sum("provoked" in line for line in daemon.output) >= 3
    assert not [line for line in daemon.output if "hunter22" in line or "other33" in line]


@pytest_twisted.ensureDeferred
async def test_metrics_are_served_on_the_admin_port_only(start_daemon):
    daemon = await start_daemon(**WAITER, TXBROKER_ADMIN_LISTEN="tcp:0:interface=127.0.0.1")
    (line,) = (event["msg"] for event in daemon.events() if "metrics are at" in event["msg"])
    answer = await http_client.get(line.removeprefix("metrics are at "))
    assert answer.status == 200
    assert "txbroker_bytes_in_total" in answer.text
    assert (await http_client.get(daemon.url + "/metrics")).status == 404
    about = (await http_client.get(line.removeprefix("metrics are at ").replace("/metrics", "/about"))).json()
    assert (about["node"], about["dialects"]) == (daemon.events()[0]["node"], ["waiter"])
    assert socket.gethostname() not in (await http_client.get(daemon.url + "/about")).text


@pytest_twisted.ensureDeferred
async def test_secret_of_the_admin_port_is_not_logged(start_daemon):
    secrets = {"TXBROKER_ADMIN_SECRET": "hush, only for operators"}
    daemon = await start_daemon(**WAITER, **secrets, TXBROKER_ADMIN_LISTEN="tcp:0:interface=127.0.0.1")
    (line,) = (event["msg"] for event in daemon.events() if "metrics are at" in event["msg"])
    url = line.removeprefix("metrics are at ")
    for shown, status in (("hush, only for operators", 200), ("hush", 401)):
        assert (await http_client.get(url, headers={"Authorization": f"Bearer {shown}"})).status == status
    assert not [line for line in daemon.output if "hush" in line]


@pytest_twisted.ensureDeferred
async def test_admin_port_for_other_machines_without_a_secret_ends_it_with_status_2(short_path):
    status, words = await failed_start(short_path, TXBROKER_ADMIN_LISTEN="tcp:0")
    assert status == 2
    assert "set TXBROKER_ADMIN_SECRET" in words


@pytest_twisted.ensureDeferred
async def test_file_limit_is_raised(short_path):
    """Started by a shell that allows few open files, but as many as it may allow itself."""
    daemon = Daemon(short_path, **WAITER, TXBROKER_MAX_CONNECTIONS="200")
    command = ["/bin/sh", "-c", 'ulimit -Sn 128; exec "$@"', "sh", str(TWISTD), "-n", "--pidfile=", "broker"]
    program = Program.start(command, env=daemon.environ, cwd=short_path)
    await program.line(lambda line: "RLIMIT_NOFILE was 128, too low for TXBROKER_MAX_CONNECTIONS=200" in line)
    soft, hard = resource.prlimit(program.pid, resource.RLIMIT_NOFILE)
    assert soft == hard > 128
    program.signal(signal.SIGTERM)
    assert await program.exit() == 0


@pytest_twisted.ensureDeferred
async def test_taken_admin_port_is_warned_of_and_nothing_more(daemon, start_daemon):
    endpoint = f"tcp:{daemon.port}:interface=127.0.0.1"
    other = await start_daemon(**WAITER, TXBROKER_ADMIN_LISTEN=endpoint)
    (line,) = (event for event in other.events() if event["level"] == "warn")
    assert line["msg"].startswith(f"no metrics: TXBROKER_ADMIN_LISTEN={endpoint}: Couldn't listen")
    assert (await http_client.get(other.url + "/health")).status == 200


@pytest_twisted.ensureDeferred
async def test_unix_socket_is_listened_on(start_daemon, short_path):
    path = short_path / "s"
    daemon = await start_daemon(**WAITER, TXBROKER_LISTEN=f"tcp:0:interface=127.0.0.1;unix:{path}")
    line = json.loads(await daemon.program.line(lambda line: '"url":"unix:' in line))
    assert line["msg"] == f"txbroker {__version__} is ready at unix:{path}"
    assert path.is_socket()


@pytest_twisted.ensureDeferred
async def test_systemd_is_told_when_it_is_ready_and_when_it_stops(start_daemon, short_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_path / "notify"))
        manager.settimeout(TIMEOUT)
        daemon = await start_daemon(**WAITER, NOTIFY_SOCKET=str(short_path / "notify"))
        assert manager.recv(100) == b"READY=1"
        await daemon.stop()
        assert manager.recv(100) == b"STOPPING=1"


@pytest_twisted.ensureDeferred
async def test_twist_runs_it_too(short_path):
    environ = Daemon(short_path, **WAITER).environ
    program = Program.start([sys.executable, "-m", "twisted", "broker"], env=environ, cwd=short_path)
    ready = json.loads(await program.line(lambda line: '"url":' in line))
    assert (await http_client.get(ready["url"] + "/health")).status == 200
    program.signal(signal.SIGTERM)
    assert await program.exit() == 0
    assert all(line.startswith("{") for line in program.lines)


@pytest_twisted.ensureDeferred
async def test_twistd_runs_it_in_the_background(short_path):
    environ = Daemon(short_path, **WAITER).environ
    program = Program.start([TWISTD, "broker"], env=environ, cwd=short_path)
    assert await program.exit() == 0, program.report()
    pid = int((short_path / "twistd.pid").read_text())
    tail = Program.start(
        ["/usr/bin/env", "tail", "-n", "+1", "-f", f"--pid={pid}", "twistd.log"], env={}, cwd=short_path
    )
    ready = json.loads(await tail.line(lambda line: '"url":' in line))
    assert (await http_client.get(ready["url"] + "/health")).status == 200
    os.kill(pid, signal.SIGTERM)
    await tail.exit()
    assert tail.lines[-1].split('"msg":')[1].startswith('"stopped"')
    await eventually(lambda: not (short_path / "twistd.pid").exists())  # the child tidies up behind


@pytest_twisted.ensureDeferred
async def test_failed_start_in_the_background_is_told_in_front_and_in_the_log(short_path):
    (short_path / "txbroker.db").write_text("this is no database, and it is long enough to be taken for none" * 20)
    program = Program.start([TWISTD, "broker"], env=Daemon(short_path, **WAITER).environ, cwd=short_path)
    assert await program.exit() == 1
    (reason,) = (line for line in program.lines if line.startswith("txbroker: "))
    assert reason.endswith("file is not a database.")
    assert reason.removeprefix("txbroker: ") in (short_path / "twistd.log").read_text()
    # The child writes it and tidies it up, before and after it has told the one in front.
    await eventually(lambda: not (short_path / "twistd.pid").exists())


def test_help_names_the_dialects_and_the_settings(short_path):
    environ = Daemon(short_path, **MEASURED).environ
    command = [str(TWISTD), "broker"]
    told = subprocess.run(
        [*command, "--help"], env=environ, cwd=short_path, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert "Dialects found: " in told.stdout
    assert "TXBROKER_" in told.stdout
    told = subprocess.run(
        [*command, "--version"], env=environ, cwd=short_path, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert (told.returncode, told.stdout) == (0, f"txbroker {__version__}\n")
