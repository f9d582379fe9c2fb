"""Commands that perform calls or do jobs: what goes in and out, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from broker.app.client.shell import Command, OutputTooLarge, Result

pytestmark = pytest.mark.processes


def run(line: str, given: bytes = b"", max_output: int = 1000, **environ: str) -> Result:
    command = Command(Command.of([line]).words, max_output)
    return asyncio.run(command.run(given, environ))


def gone(pid: int) -> bool:
    """Whether the process has ended, perhaps without having been waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    except OSError:
        return True


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_command_reads_its_input_and_prints_the_result(capfd):
    assert run("tr a-z A-Z", b"hello") == Result(0, b"HELLO", "exit status 0")
    assert run('echo "$NAME"', NAME="ann").output == b"ann\n"
    assert capfd.readouterr() == ("", "")


def test_several_words_are_no_line_for_the_shell():
    command = Command.of(["printf", "%s", "$HOME;"])
    assert asyncio.run(command.run(b"", {})).output == b"$HOME;"


def test_the_reason_is_the_last_line_of_standard_error(capfd):
    result = run("echo first >&2; echo second >&2; echo >&2; echo out; exit 3")
    assert (result.status, result.output, result.reason) == (3, b"out\n", "second")
    assert run("printf 'no end' >&2; exit 1").reason == "no end"
    assert run("exit 5").reason == "exit status 5"
    killed = run("kill -9 $$")
    assert (killed.status, killed.reason) == (137, "ended by SIGKILL")
    assert capfd.readouterr().err == "first\nsecond\n\nno end"


def test_much_input_that_is_not_read_is_no_error():
    assert run("exit 0", b"x" * 1_000_000).status == 0
    assert run("wc -c", b"x" * 1_000_000).output.strip() == b"1000000"


def test_output_over_the_limit_ends_the_command():
    with pytest.raises(OutputTooLarge):
        run("yes")


def test_what_a_command_leaves_running_is_ended(tmp_path):
    begun = tmp_path / "pid"
    result = run(f"sleep 1000 & echo $! >{begun}; echo done")
    assert result.output == b"done\n"
    pid = int(begun.read_text())
    asyncio.run(until(lambda: gone(pid)))


def test_a_process_in_a_session_of_its_own_holds_no_pipe_of_a_command(tmp_path):
    begun = tmp_path / "pid"

    async def scenario() -> set[str]:
        await Command.of(["true"]).run(b"", {})
        before = set(os.listdir("/proc/self/fd"))
        result = await Command.of([f"setsid sleep 1000 & echo $! >{begun}; echo done"]).run(b"x", {})
        assert (result.status, result.output) == (0, b"done\n")
        await asyncio.sleep(0)  # closed transports let go of their pipes
        return set(os.listdir("/proc/self/fd")) - before

    try:
        assert asyncio.run(scenario()) == set()
    finally:
        os.kill(int(begun.read_text()), signal.SIGKILL)


def test_to_cancel_it_ends_all_of_its_processes(tmp_path):
    begun, ended = tmp_path / "pid", tmp_path / "ended"
    # It takes note of SIGTERM and goes on: what does not end by that is killed.
    line = f"trap 'touch {ended}' TERM; sh -c 'trap \"\" TERM; echo $$ >{begun}; while :; do sleep 1; done'; sleep 1000"

    async def scenario() -> int:
        task = asyncio.create_task(Command.of([line]).run(b"", {}))
        await until(lambda: begun.exists() and begun.read_text().strip())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        pid = int(begun.read_text())
        await until(lambda: gone(pid))
        return pid

    assert not Path(f"/proc/{asyncio.run(scenario())}/cwd").exists()


def test_to_cancel_it_while_it_starts_leaves_nothing(tmp_path):
    begun = tmp_path / "pid"

    async def scenario() -> None:
        task = asyncio.create_task(Command.of([f"sleep 1000 & echo $! >{begun}; wait"]).run(b"", {}))
        await asyncio.sleep(0)  # it has begun to start the command, and has not been told that it runs
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not begun.exists() or not begun.read_text() or gone(int(begun.read_text())))

    asyncio.run(scenario())


def test_a_command_has_a_session_of_its_own():
    sid = int(run("ps -o sid= -p $$").output)
    assert sid != os.getsid(0)
