"""The files for systemd and logrotate are right, as far as their own programs can say."""

import configparser
import getpass
import grp
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from broker.config.settings import Settings
from broker.observe.log_file import LogFile

CONTRIB = Path(__file__).parent.parent.parent / "contrib"
UNITS = ("txbroker.service", "txbroker.socket")
pytestmark = [pytest.mark.unmeasured, pytest.mark.processes]


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run *program*, or skip the test where there is none."""
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        pytest.skip(f"there is no {program}")
    return subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def unit():
    """The directives of the service by section; the last of several of a name."""
    found = configparser.ConfigParser(strict=False, interpolation=None)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read(CONTRIB / "systemd" / "txbroker.service")
    return found


def test_units_are_well_formed(tmp_path):
    for name in UNITS:
        text = (CONTRIB / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/txbroker/bin/twistd", shutil.which("true") or "/bin/true"))
    told = run("systemd-analyze", "verify", *(tmp_path / name for name in UNITS))
    assert [line for line in told.stderr.splitlines() if "txbroker" in line or str(tmp_path) in line] == []


def test_service_can_do_little_besides():
    told = run("systemd-analyze", "security", "--offline=true", "--threshold=20", CONTRIB / "systemd" / UNITS[0])
    assert told.returncode == 0, told.stdout.splitlines()[-1]


def test_service_is_told_when_it_runs_reloads_hangs_and_must_not_start_again(unit):
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["ExecReload"] == '/bin/sh -c "kill -HUP ${MAINPID}"'
    assert int(service["WatchdogSec"]) > 0
    assert service["EnvironmentFile"] == "-/etc/default/txbroker"
    assert service["RestartPreventExitStatus"] == "2"
    assert int(service["TimeoutStopSec"]) > Settings(bus="redis://h", store="redis://h").drain_seconds
    assert int(service["LimitNOFILE"]) > Settings().max_connections


def test_user_is_made():
    told = run("systemd-sysusers", "--dry-run", CONTRIB / "sysusers" / "txbroker.conf")
    assert told.returncode == 0, told.stderr
    assert "txbroker" in told.stdout + told.stderr


def test_log_is_rotated_and_written_on(tmp_path):
    user, group = getpass.getuser(), grp.getgrgid(os.getgid()).gr_name
    rules = (CONTRIB / "logrotate" / "txbroker").read_text()
    rules = rules.replace("/var/log/txbroker/*.log", f"{tmp_path}/txbroker.log").replace(
        "0640 txbroker txbroker", f"0640 {user} {group}"
    )
    (tmp_path / "rules").write_text(
        rules.replace("su txbroker txbroker", f"su {user} {group}").replace("systemctl", "true")
    )
    file = LogFile(str(tmp_path / "txbroker.log"))
    file.write("before\n")
    told = run("logrotate", "--force", f"--state={tmp_path}/state", tmp_path / "rules")
    assert told.returncode == 0, told.stderr
    file.reopen()
    file.write("after\n")
    file.close()
    assert (tmp_path / "txbroker.log.1").read_text() == "before\n"
    assert (tmp_path / "txbroker.log").read_text() == "after\n"
