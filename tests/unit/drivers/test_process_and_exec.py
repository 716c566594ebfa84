"""The drivers `process` and `exec`, with real programs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from noded.drivers import contract
from noded.drivers.builtin.exec import ExecDriver
from noded.drivers.builtin.file import FileDriver
from noded.drivers.builtin.process import ProcessDriver
from noded.drivers.contract import Actual, DriverError
from noded.drivers.support.command import STDOUT_BYTES_MAX
from nodestore.schema.models import Spec
from tests.support.noded.driver_rig import driver, until

SHOW = """
import json, os, signal, sys, time
def show(*_):
    with open("shown.new", "w") as file:
        json.dump({"document": json.load(open(os.environ["NODECTL_DOCUMENT"])), "pid": os.getpid(),
                   "node": os.environ["NODECTL_NODE"], "argv": sys.argv[1:], "extra": os.environ.get("EXTRA")}, file)
    os.replace("shown.new", "shown.json")
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, show)
print("showing", flush=True)
show()
while True:
    time.sleep(0.05)
"""


def program(code: str, *arguments: str, driver: str = "process", document: Any = None, **settings: Any) -> Spec:
    argv = ["{python}", "-c", code, *arguments]
    return Spec(driver=driver, settings={"argv": argv, **settings}, document=document or {})


def shown(work_dir: Path) -> Any:
    try:
        return json.loads((work_dir / "shown.json").read_bytes())
    except (OSError, ValueError):
        return None


def shows(work_dir: Path, scene: str) -> Callable[[], Any]:
    def look() -> Any:
        seen = shown(work_dir)
        return seen if seen and seen["document"].get("scene") == scene else None

    return look


# --- process ---------------------------------------------------------------------------------------------------------


async def test_process_gets_arguments_environment_and_document(tmp_path: Path) -> None:
    """The program runs in the work directory, with its arguments, environment and the document's path."""
    async with driver(ProcessDriver, tmp_path / "w") as (process, _):
        spec = program(SHOW, "a b", "ü", env={"EXTRA": "ö"}, document={"scene": "Küche"})
        await process.apply(spec, None)
        seen = await until(shows(tmp_path / "w", "Küche"), "the program")
        assert (seen["node"], seen["argv"], seen["extra"]) == ("n1", ["a b", "ü"], "ö")
        actual = await process.inspect()
        assert actual.drift is None
        assert actual.state["running"] is True
        assert actual.state["pid"] == seen["pid"]
        await until(lambda: b"showing" in (tmp_path / "w" / "program.log").read_bytes(), "its output in the log file")
    assert not psutil.pid_exists(seen["pid"])


async def test_an_inherited_variable_can_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A null in `env` leaves a variable of noded's out, for programs and commands alike."""
    monkeypatch.setenv("EXTRA", "noded's")
    async with driver(ProcessDriver, tmp_path) as (process, _):
        await process.apply(program(SHOW, env={"EXTRA": None}, document={"scene": "one"}), None)
        assert (await until(shows(tmp_path, "one"), "the program"))["extra"] is None
    async with driver(ExecDriver, tmp_path) as (command, _):
        code = "import json, os; print(json.dumps({'extra': os.environ.get('EXTRA')}))"
        await command.apply(program(code, driver="exec", env={"EXTRA": None}), None)
        assert (await command.inspect()).state == {"extra": None}


async def test_process_reloads_a_changed_document(tmp_path: Path) -> None:
    """By default a change of the document replaces the file and leaves the program running."""
    async with driver(ProcessDriver, tmp_path) as (process, _):
        one, two = program(SHOW, document={"scene": "one"}), program(SHOW, document={"scene": "two"})
        await process.apply(one, None)
        pid = (await until(shows(tmp_path, "one"), "scene one"))["pid"]
        await process.apply(two, one)
        assert json.loads((tmp_path / "document.json").read_bytes()) == {"scene": "two"}
        assert (await process.inspect()).state["pid"] == pid


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
async def test_only_the_owner_can_read_the_document(tmp_path: Path) -> None:
    """It may hold secrets. A file of an earlier release is restricted even if its content stays."""
    path = tmp_path / "document.json"
    path.write_bytes(b'{"scene":"one"}')
    path.chmod(0o644)
    async with driver(ProcessDriver, tmp_path) as (process, _):
        for scene in ("one", "two"):
            await process.apply(program(SHOW, document={"scene": scene}), None)
            assert (json.loads(path.read_bytes()), path.stat().st_mode & 0o777) == ({"scene": scene}, 0o600)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
async def test_process_signals_a_reload(tmp_path: Path) -> None:
    """With reload_signal the program gets that signal when its document changes."""
    async with driver(ProcessDriver, tmp_path) as (process, _):
        one, two = (program(SHOW, document={"scene": name}, reload_signal="SIGHUP") for name in ("one", "two"))
        await process.apply(one, None)
        before = await until(shows(tmp_path, "one"), "scene one")
        await process.apply(two, one)
        after = await until(shows(tmp_path, "two"), "scene two")
        assert after["pid"] == before["pid"]


async def test_process_restarts_when_told_to(tmp_path: Path) -> None:
    """With `on_change: restart`, and whenever its settings change, the program is restarted."""
    async with driver(ProcessDriver, tmp_path) as (process, _):
        one, two = (program(SHOW, document={"scene": name}, on_change="restart", grace_s=0) for name in ("one", "two"))
        await process.apply(one, None)
        first = await until(shows(tmp_path, "one"), "scene one")
        await process.apply(two, one)
        second = await until(shows(tmp_path, "two"), "scene two")
        assert second["pid"] != first["pid"]
        three = program(SHOW, "more", document={"scene": "two"}, grace_s=0)
        await process.apply(three, two)
        third = await until(
            lambda: (shown(tmp_path) or {}).get("argv") == ["more"] and shown(tmp_path), "new arguments"
        )
        assert third["pid"] != second["pid"]
        assert (await process.inspect()).state["restarts"] == 2


async def test_process_tells_of_a_crash_with_the_last_line(tmp_path: Path) -> None:
    """A program that ends wakes noded, and its last words are in the drift."""
    async with driver(ProcessDriver, tmp_path) as (process, woken):
        spec = program("import sys; print('one'); sys.exit('no display ✗')", env={"PYTHONUTF8": "1"})
        await process.apply(spec, None)
        await woken.wait()
        actual = await process.inspect()
        assert actual.failed
        assert actual.drift == "the program exited with code 1: no display ✗"
        assert actual.state["exit_code"] == 1
        assert actual.state["running"] is False


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
async def test_process_end_is_seen_though_a_grandchild_holds_its_output(tmp_path: Path) -> None:
    """What the program has started does not hide its end, and is ended before the next start."""
    code = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "open('grandchild', 'w').write(str(p.pid)); sys.exit(3)"
    )
    async with driver(ProcessDriver, tmp_path) as (process, woken):
        spec = program(code)
        await process.apply(spec, None)
        await woken.wait()
        grandchild = int((tmp_path / "grandchild").read_text())
        assert psutil.pid_exists(grandchild)
        await process.apply(spec, spec)
        assert not _runs(grandchild)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("change", ["missing", "altered"])
async def test_process_puts_its_document_right(tmp_path: Path, change: str) -> None:
    """A removed or altered document file is drift, and is written again without a restart."""
    async with driver(ProcessDriver, tmp_path) as (process, _):
        spec = program(SHOW, document={"scene": "one"})
        await process.apply(spec, None)
        pid = (await process.inspect()).state["pid"]
        path = tmp_path / "document.json"
        if change == "missing":
            path.unlink()
        else:
            path.write_text("{}")
        actual = await process.inspect()
        assert actual.drift == f"document.json {'is missing' if change == 'missing' else 'was altered'}"
        assert not actual.failed
        await process.apply(spec, spec)
        actual = await process.inspect()
        assert (actual.drift, actual.state["pid"]) == (None, pid)


@pytest.mark.skipif(sys.platform == "win32", reason="a directory in use cannot be removed")
async def test_process_restarts_in_a_new_work_directory(tmp_path: Path) -> None:
    """If the work directory was deleted, the program is restarted in a new one, because it would write into the deleted
    one."""
    work = tmp_path / "w"
    async with driver(ProcessDriver, work) as (process, _):
        spec = program(SHOW, document={"scene": "one"}, grace_s=0)
        await process.apply(spec, None)
        first = await until(shows(work, "one"), "the first start")
        work.rename(tmp_path / "wiped")
        assert (await process.inspect()).drift == "the program's working directory was removed"
        await process.apply(spec, spec)
        second = await until(shows(work, "one"), "the second start")
        assert second["pid"] != first["pid"]
        assert (await process.inspect()).drift is None


@pytest.mark.skipif(sys.platform == "win32", reason="the handler is written for SIGTERM")
async def test_process_is_asked_before_it_is_killed(tmp_path: Path) -> None:
    """A polite program can put its things in order."""
    code = (
        "import signal, sys, time\n"
        "def end(*_):\n    open('ended', 'w').close(); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); open('ready', 'w').close()\n"
        "while True: time.sleep(0.05)"
    )
    async with driver(ProcessDriver, tmp_path) as (process, _):
        await process.apply(program(code), None)
        await until((tmp_path / "ready").exists, "the program")
    assert (tmp_path / "ended").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the handler is written for SIGTERM")
async def test_process_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    """After grace_s the program and all it has started are killed."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('ready', 'w'); time.sleep(600)"
    async with driver(ProcessDriver, tmp_path) as (process, _):
        await process.apply(program(code, grace_s=0.1), None)
        await until((tmp_path / "ready").exists, "the program")
        pid = (await process.inspect()).state["pid"]
    assert not _runs(pid)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "argv"),
        ({"argv": []}, "argv"),
        ({"argv": ["a\x00b"]}, "argv.0"),
        ({"argv": ["x"], "grace": 5}, "grace"),
        ({"argv": ["x"], "grace_s": -1}, "grace_s"),
        ({"argv": ["x"], "document_file": "../../etc/passwd"}, "document_file"),
        ({"argv": ["x"], "document_file": ".noded"}, "document_file"),
        ({"argv": ["x"], "env": {"A=B": "c"}}, "env"),
        ({"argv": ["x"], "document_file": "Program.log"}, "document_file"),
        ({"argv": ["x"], "document_file": "log.1", "log_file": "log"}, "document_file"),
    ],
)
async def test_process_refuses_settings_that_make_no_sense(tmp_path: Path, settings: Any, says: str) -> None:
    """Invalid settings are named and not retried; the running program continues."""
    async with driver(ProcessDriver, tmp_path) as (process, _):
        good = program(SHOW, document={"scene": "one"})
        await process.apply(good, None)
        with pytest.raises(DriverError, match=says) as caught:
            await process.apply(Spec(driver="process", settings=settings), good)
        assert not caught.value.retryable
        assert (await process.inspect()).state["running"] is True


async def test_process_that_is_not_there_is_tried_again(tmp_path: Path) -> None:
    """A program may be installed later."""
    async with driver(ProcessDriver, tmp_path) as (process, _):
        with pytest.raises(DriverError, match="no such program") as caught:
            await process.apply(Spec(driver="process", settings={"argv": ["no-such-program-here"]}), None)
        assert caught.value.retryable


async def test_output_is_bounded(tmp_path: Path) -> None:
    """The output of a program cannot fill the disk."""
    code = "import sys\nfor n in range(3000): print('x' * 99)\nprint('the end'); sys.exit(1)"
    async with driver(ProcessDriver, tmp_path) as (process, woken):
        await process.apply(program(code, log_bytes_max=50_000), None)
        await woken.wait()
        await until(lambda: (tmp_path / "program.log.1").exists(), "the log to be rotated")
        sizes = [
            (tmp_path / name).stat().st_size for name in ("program.log", "program.log.1") if (tmp_path / name).exists()
        ]
        assert sum(sizes) <= 2 * (50_000 + (1 << 16))


LEAVE = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    "open('left', 'w').write(str(child.pid)); time.sleep(600)"
)


HOST = (  # a noded with one program: work directory and code are its arguments
    "import asyncio, sys\nfrom pathlib import Path\n"
    "from noded.drivers.contract import Context\nfrom noded.drivers.builtin.process import ProcessDriver\n"
    "from nodestore.schema.models import Spec\n"
    "async def main():\n"
    "    async with asyncio.TaskGroup() as tasks:\n"
    "        d = ProcessDriver(Context('n1', 'test', Path(sys.argv[1]), 'older', lambda: None, tasks))\n"
    "        await d.apply(Spec(driver='process', settings={'argv': ['{python}', '-c', sys.argv[2]]}), None)\n"
    "        print((await d.inspect()).state['pid'], flush=True)\n"
    "        await asyncio.sleep(600)\n"
    "asyncio.run(main())\n"
)


@pytest.mark.skipif(sys.platform != "linux", reason="how the kernel ends the program is Linux's")
@pytest.mark.parametrize("wiped", [False, True])
async def test_left_overs_of_a_killed_noded_are_ended(tmp_path: Path, wiped: bool) -> None:
    """kill -9 of noded: the kernel ends the program, the next noded what it had started, wiped directory or not."""
    work = tmp_path / "w"
    noded = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOST, str(work), LEAVE, stdout=asyncio.subprocess.PIPE
    )
    assert noded.stdout is not None
    program_pid = int(await noded.stdout.readline())
    left = int(await until(lambda: (work / "left").exists() and (work / "left").read_text(), "the grandchild"))
    noded.kill()
    await noded.wait()
    await until(lambda: not _runs(program_pid), "the kernel to end the program")
    assert _runs(left)
    if wiped:
        shutil.rmtree(work)
    async with driver(ProcessDriver, work, nonce="newer") as (process, _):
        await process.apply(program(SHOW, document={"scene": "one"}), None)
        assert not _runs(left)
        assert (await process.inspect()).state["running"] is True


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
async def test_the_programs_of_a_noded_that_still_runs_are_not_ended(tmp_path: Path) -> None:
    """A noded that was replaced while it was frozen, and wakes, ends its own programs and not its successor's."""
    host = HOST.replace("'older'", "'successor'")
    successor = await asyncio.create_subprocess_exec(
        sys.executable, "-c", host, str(tmp_path), SHOW, stdout=asyncio.subprocess.PIPE
    )
    assert successor.stdout is not None
    try:
        theirs = int(await successor.stdout.readline())
        async with driver(ProcessDriver, tmp_path, nonce="replaced") as (process, _):
            await process.apply(program(SHOW), None)
        assert _runs(theirs)
    finally:
        successor.kill()
        await successor.wait()


async def test_other_nodes_are_left_alone(tmp_path: Path) -> None:
    """Only left-over processes of this node and this work directory are ended."""
    async with driver(ProcessDriver, tmp_path / "a") as (one, _), driver(ProcessDriver, tmp_path / "b") as (two, _):
        await one.apply(program(SHOW), None)
        await two.apply(program(SHOW), None)
        await two.stop()
        assert (await one.inspect()).state["running"] is True
        assert (await one.inspect()).drift is None


# --- exec ------------------------------------------------------------------------------------------------------------

ECHO = "import json, sys; print(json.dumps({'got': json.load(sys.stdin), 'argv': sys.argv[1:]}))"


async def test_exec_gets_the_document_and_gives_the_status(tmp_path: Path) -> None:
    """Document on stdin, status from stdout."""
    async with driver(ExecDriver, tmp_path) as (command, _):
        await command.apply(program(ECHO, "on", driver="exec", document={"scene": "Küche"}), None)
        assert await command.inspect() == Actual({"got": {"scene": "Küche"}, "argv": ["on"]})


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys; sys.exit('line one\\nno projector ✗\\n')", "^no projector ✗$"),
        ("import sys; sys.exit(3)", "the command exited with code 3"),
        ("print('no json')", "is not JSON"),
        ("print('[1, 2]')", "is not a JSON object"),
        (f"print('x' * {STDOUT_BYTES_MAX + 1})", "printed more than"),
        (f"print('x' * {64 * STDOUT_BYTES_MAX})", "printed more than"),
    ],
)
async def test_exec_failures_are_one_line(tmp_path: Path, code: str, says: str) -> None:
    """What went wrong is the last line of stderr, or what is wrong with the output."""
    async with driver(ExecDriver, tmp_path) as (command, _):
        spec = program(code, driver="exec", env={"PYTHONUTF8": "1"})
        with pytest.raises(DriverError, match=says) as caught:
            await command.apply(spec, None)
        assert caught.value.retryable


async def test_exec_may_print_nothing_and_read_nothing(tmp_path: Path) -> None:
    """A command that does not read its large document and prints nothing has succeeded."""
    async with driver(ExecDriver, tmp_path) as (command, _):
        await command.apply(program("", driver="exec", document={"blob": "x" * 2_000_000}), None)
        assert await command.inspect() == Actual({})


async def test_exec_is_ended_after_its_time(tmp_path: Path) -> None:
    """The time limit ends the command with all it has started."""
    async with driver(ExecDriver, tmp_path) as (command, _):
        with pytest.raises(DriverError, match=r"within 6 s"):
            await command.apply(program(LEAVE, driver="exec", timeout_s=6), None)
        await until(lambda: not _runs(int((tmp_path / "left").read_text())), "the grandchild to end")


@pytest.mark.skipif(os.name == "nt", reason="sh")
async def test_exec_does_not_wait_for_what_the_command_started(tmp_path: Path) -> None:
    """Something in the background that keeps stdout open neither blocks nor survives the command."""
    async with driver(ExecDriver, tmp_path) as (command, _):
        settings = {"argv": ["sh", "-c", "sleep 600 & echo '{\"pid\": '$!'}'"], "timeout_s": 30}
        await command.apply(Spec(driver="exec", settings=settings), None)
        assert not _runs((await command.inspect()).state["pid"])


async def test_exec_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    """noded stops while a command runs: the command is ended."""
    async with driver(ExecDriver, tmp_path) as (command, _):
        running = asyncio.ensure_future(command.apply(program(LEAVE, driver="exec"), None))
        left = int(await until(lambda: (tmp_path / "left").exists() and (tmp_path / "left").read_text(), "the start"))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await until(lambda: not _runs(left), "the grandchild to end")


# --- finding drivers -------------------------------------------------------------------------------------------------


def test_drivers_come_from_entry_points() -> None:
    """Those shipped are found by name; an unknown one is refused with the list of those there are."""
    assert contract.load("process") is ProcessDriver
    assert contract.load("exec") is ExecDriver
    assert contract.load("file") is FileDriver
    with pytest.raises(DriverError, match=r"named relay is installed \(installed: .*exec, file, process") as caught:
        contract.load("relay")
    assert not caught.value.retryable
