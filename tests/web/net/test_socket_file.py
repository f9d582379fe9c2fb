"""Unix sockets: however the last daemon ended, the next can listen, and no two can."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.error import CannotListenError

from broker.web.net.endpoints import check_endpoint
from broker.web.net.socket_file import group_id
from tests.web.sockets import Scene

GROUP = os.getgroups()[-1] if os.getgroups() else os.getgid()


@pytest.fixture
def path(scene: Scene) -> Path:
    return scene.path / "socket"


def leave_stale(path: Path) -> None:
    """Leave what is there after a ``kill -9``: a socket, and the lock of one that has a number of somebody who runs."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.listen()
    left.close()
    os.symlink(str(os.getppid()), f"{path}.lock")


async def is_served(scene: Scene, path: Path) -> bool:
    client = await scene.connect(path)
    client.transport.write(b"hello")
    return await client.until(5) == b"hello"


@pytest.mark.parametrize("options", ["", ":lockfile=0", ":lockfile=1"])
@pytest_twisted.ensureDeferred
async def test_what_a_daemon_left_that_was_killed_is_no_obstacle(scene: Scene, path: Path, options: str) -> None:
    leave_stale(path)
    await scene.listen(f"unix:{path}{options}")
    assert await is_served(scene, path)
    assert not os.path.lexists(f"{path}.lock")


@pytest_twisted.ensureDeferred
async def test_a_lock_without_a_socket_is_no_obstacle(scene: Scene, path: Path) -> None:
    os.symlink("1", f"{path}.lock")
    await scene.listen(f"unix:{path}")
    assert await is_served(scene, path)


@pytest_twisted.ensureDeferred
async def test_who_listens_keeps_its_socket(scene: Scene, path: Path) -> None:
    await scene.listen(f"unix:{path}")
    with pytest.raises(CannotListenError, match="another process listens there"):
        await scene.listen(f"unix:{path}")
    assert await is_served(scene, path)


@pytest_twisted.ensureDeferred
async def test_one_whose_queue_is_full_listens_too(scene: Scene, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(str(path))
        busy.listen(0)
        client.connect(str(path))
        with pytest.raises(CannotListenError, match="another process listens there"):
            await scene.listen(f"unix:{path}")


@pytest_twisted.ensureDeferred
async def test_a_file_that_is_no_socket_stays(scene: Scene, path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(CannotListenError, match="no socket"):
        await scene.listen(f"unix:{path}")
    assert path.read_text() == "precious"


@pytest.mark.parametrize(("options", "mode"), [("", 0o666), (":mode=660", 0o660), (":mode=600", 0o600)])
@pytest_twisted.ensureDeferred
async def test_it_has_the_mode_that_is_wanted_whatever_the_umask(
    scene: Scene, path: Path, options: str, mode: int
) -> None:
    mask = os.umask(0o077)
    try:
        await scene.listen(f"unix:{path}{options}")
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest_twisted.ensureDeferred
async def test_it_has_the_group_that_is_wanted(scene: Scene, path: Path) -> None:
    await scene.listen(f"unix:{path}:mode=660:group={GROUP}")
    assert (path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (GROUP, 0o660)


@pytest_twisted.ensureDeferred
async def test_a_port_that_closes_removes_its_file(scene: Scene, path: Path) -> None:
    port = await scene.listen(f"unix:{path}")
    await port.stopListening()
    assert not path.exists()


@pytest_twisted.ensureDeferred
async def test_a_port_that_closes_leaves_the_file_of_its_successor(scene: Scene, path: Path) -> None:
    port = await scene.listen(f"unix:{path}")
    path.unlink()
    await scene.listen(f"unix:{path}")
    await port.stopListening()
    assert await is_served(scene, path)


@pytest_twisted.ensureDeferred
async def test_a_file_that_somebody_has_removed_is_no_matter(scene: Scene, path: Path) -> None:
    port = await scene.listen(f"unix:{path}")
    path.unlink()
    await port.stopListening()


def test_groups_have_names_and_numbers() -> None:
    assert (group_id("root"), group_id("17")) == (0, 17)
    with pytest.raises(ValueError, match="there is no group of-nobody"):
        group_id("of-nobody")


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("unix:{}/s:mode=9", "'9' is no integer"),
        ("unix:{}/s:mode=1777", "1777 is no mode"),
        ("unix:{}/s:group=of-nobody", "no group of-nobody"),
        ("unix:{}/s:owner=root", "unknown"),
        ("haproxy:unix:{}/s:group=of-nobody", "no group of-nobody"),
    ],
)
def test_what_is_wrong_is_told_before_anything_listens(tmp_path: Path, endpoint: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_endpoint(endpoint.format(tmp_path))
