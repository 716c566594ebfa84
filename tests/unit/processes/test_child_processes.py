"""nodestore.processes.child_processes against real processes."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from nodestore.errors import NodectlError, TimedOut
from nodestore.processes import child_processes

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="/proc, PR_SET_PDEATHSIG")
WAIT_S = 30.0

IDLE = "import time\ntime.sleep(600)"
DEAF = f"import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\n{IDLE}"
FAMILY = (  # a child that leaves behind a grandchild in its own group and one that led itself out of the session
    "import subprocess, sys\n"
    "def start(**more): return subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], **more).pid\n"
    f"print(start(), start(start_new_session=True), flush=True)\n{IDLE}"
)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


async def line(child: child_processes.Child) -> str:
    assert child.stdout is not None
    async with asyncio.timeout(WAIT_S):
        return (await child.stdout.readline()).decode().strip()


def identity(pid: str | int) -> child_processes.Identity:
    found = child_processes.identify(int(pid))
    assert found is not None
    return found


@pytest.fixture
def doomed() -> Iterator[list[child_processes.Identity]]:
    """Processes that a test leaves to be killed, whatever happens to it."""
    processes: list[child_processes.Identity] = []
    yield processes
    for process in processes:
        child_processes.kill_tree(process)


pytestmark = pytest.mark.timeout(60)


def test_we_are_alive_and_a_later_owner_of_our_pid_would_not_be_us() -> None:
    me = identity(os.getpid())
    assert child_processes.is_alive(me)
    assert not child_processes.is_alive(replace(me, created=me.created + 0.01))


def test_a_recycled_pid_is_left_alone(doomed: list[child_processes.Identity], tmp_path: Path) -> None:
    """An identity that was recorded earlier does not match another process with the same pid."""
    now = child_processes.spawn_detached(python(IDLE), log=tmp_path / "log")
    doomed.append(now)
    before = replace(now, created=now.created - 1)
    child_processes.terminate(before)
    child_processes.kill_tree(before)
    with pytest.raises(NodectlError, match=str(now.pid)):
        child_processes.suspend(before)
    assert psutil.Process(now.pid).status() != psutil.STATUS_STOPPED
    assert child_processes.is_alive(now)


@LINUX
@pytest.mark.parametrize("name", ["etcd", "a b", "a) S 1 (b", ")) R ("])
def test_a_stat_line_is_read_whatever_the_name_holds(name: str) -> None:
    from nodestore.processes import posix

    rest = " ".join(str(number) for number in range(4, 53))
    assert posix.parse_stat(f"4711 ({name}) R {rest}\n") == ("R", 22)


def test_the_exit_code_and_both_streams_come_back() -> None:
    async def scenario() -> None:
        child = await child_processes.spawn(
            python("import sys; print(sys.stdin.read()); print('bad', file=sys.stderr); sys.exit(3)"),
            stdin=child_processes.PIPE, stdout=child_processes.PIPE, stderr=child_processes.PIPE,
        )  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdin.write(b"good")
        child.stdin.close()
        assert (await child.stdout.read()).strip() == b"good"
        assert (await child.stderr.read()).strip() == b"bad"
        assert await child.wait() == 3
        assert child.poll() == 3

    asyncio.run(scenario())


def test_output_is_appended_to_a_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        for word in ("one", "two"):
            code = f"import sys; print('{word}'); print('{word}!', file=sys.stderr)"
            child = await child_processes.spawn(python(code), stdout=tmp_path / "new" / "log")
            assert await child.wait() == 0

    asyncio.run(scenario())
    assert sorted((tmp_path / "new" / "log").read_text().split()) == ["one", "one!", "two", "two!"]


@pytest.mark.parametrize("program", ["no-such-program-anywhere", "./neither-is-this", "/nor/this"])
@pytest.mark.parametrize("die_with_parent", [False, True])
def test_a_missing_program_is_one_clear_error(program: str, die_with_parent: bool) -> None:
    with pytest.raises(NodectlError, match="no such program"):
        asyncio.run(child_processes.spawn([program], die_with_parent=die_with_parent))


def test_a_child_that_listens_stops_by_itself() -> None:
    async def scenario() -> int:
        child = await child_processes.spawn(python(IDLE))
        return await child.stop(WAIT_S)

    assert asyncio.run(scenario()) != 0


@POSIX
def test_a_child_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    async def scenario() -> int:
        child = await child_processes.spawn(python(DEAF), stdout=child_processes.PIPE)
        assert await line(child) == "ready"
        return await child.stop(0.2)

    assert asyncio.run(scenario()) == -9


@POSIX
def test_a_suspended_child_is_killed_after_the_grace() -> None:
    async def scenario() -> int:
        child = await child_processes.spawn(python(IDLE))
        child_processes.suspend(child.identity)
        until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_STOPPED)
        return await child.stop(0.2)

    assert asyncio.run(scenario()) == -9


def test_a_resumed_child_goes_on(doomed: list[child_processes.Identity]) -> None:
    async def scenario() -> None:
        child = await child_processes.spawn(
            python("input(); print('on')"), stdin=child_processes.PIPE, stdout=child_processes.PIPE
        )
        doomed.append(child.identity)
        child_processes.suspend(child.identity)
        if sys.platform != "win32":
            until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_STOPPED)
        child_processes.resume(child.identity)
        assert child.stdin is not None
        child.stdin.write(b"\n")
        assert await line(child) == "on"
        await child.wait()

    asyncio.run(scenario())


def test_stopping_takes_the_grandchildren_along() -> None:
    async def scenario() -> list[child_processes.Identity]:
        child = await child_processes.spawn(python(FAMILY), stdout=child_processes.PIPE)
        family = [identity(pid) for pid in (await line(child)).split()]
        assert all(child_processes.is_alive(member) for member in family)
        child.kill_tree()
        await child.wait()
        assert await line(child) == ""  # no process holds the pipe any more
        return family

    for member in asyncio.run(scenario()):
        until(lambda member=member: not child_processes.is_alive(member))  # type: ignore[misc]


@POSIX
def test_what_a_dead_child_left_behind_in_its_session_is_found_by_its_identity() -> None:
    """As noded does after a crash: the recorded identity is enough, although the process itself has ended."""
    code = "import subprocess as s, sys\nprint(s.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"

    async def scenario() -> child_processes.Identity:
        child = await child_processes.spawn(python(code), stdout=child_processes.PIPE)
        orphan = identity(await line(child))
        assert await child.wait() == 0  # though the orphan still holds its pipe
        assert not child_processes.is_alive(child.identity)
        assert child_processes.is_alive(orphan)
        child_processes.kill_tree(child.identity)
        assert await line(child) == ""  # the pipe is closed: the orphan has ended
        return orphan

    orphan = asyncio.run(scenario())
    until(lambda: not child_processes.is_alive(orphan))


MIDDLE = """
import asyncio, sys
from nodestore.processes import child_processes as procs
async def main():
    child = await procs.spawn([sys.executable, "-c", {code!r}], die_with_parent=True)
    print(child.pid, flush=True)
    await child.wait()
asyncio.run(main())
"""


def test_a_child_dies_with_its_killed_parent(doomed: list[child_processes.Identity]) -> None:
    """kill -9 gives the parent no chance to do anything about it."""

    async def scenario() -> child_processes.Identity:
        middle = await child_processes.spawn(python(MIDDLE.format(code=IDLE)), stdout=child_processes.PIPE)
        child = identity(await line(middle))
        doomed.append(child)
        psutil.Process(middle.pid).kill()
        await middle.wait()
        return child

    child = asyncio.run(scenario())
    until(lambda: not child_processes.is_alive(child))


@LINUX
def test_a_parent_that_died_before_the_launcher_asked_the_kernel_is_noticed() -> None:
    """The launcher starts with the pid of a parent that it no longer has."""
    launcher = Path(child_processes.__file__).with_name("launch.py")
    somebody_else = str(os.getppid())
    done = child_processes.run(
        [sys.executable, launcher, "die", "0", somebody_else, sys.executable, "-c", "print('ran')"], timeout_s=WAIT_S
    )
    assert (done.returncode, done.stdout) == (0, "")


@LINUX
def test_a_program_the_kernel_refuses_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF but not really")
    broken.chmod(0o755)

    async def scenario() -> tuple[int, bytes]:
        child = await child_processes.spawn([broken], stdout=child_processes.PIPE, die_with_parent=True)
        assert child.stdout is not None
        said = await child.stdout.read()
        return await child.wait(), said

    code, said = asyncio.run(scenario())
    assert code == 127
    assert f"cannot run {broken}" in said.decode()


DETACHER = """
import sys
from pathlib import Path
from nodestore.processes import child_processes as procs
found = procs.spawn_detached([sys.executable, "-c", {code!r}], log=Path(sys.argv[1]))
print(found.pid, flush=True)
"""


def test_a_detached_process_survives_its_spawner(doomed: list[child_processes.Identity], tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = DETACHER.format(code=f"print('hello', flush=True)\n{IDLE}")
    done = child_processes.run([*python(code), str(log)], timeout_s=WAIT_S)
    assert done.returncode == 0, done.stderr
    detached = identity(done.stdout)
    doomed.append(detached)
    until(lambda: log.read_text().strip() == "hello")
    assert child_processes.is_alive(detached)
    child_processes.kill_tree(detached)
    until(lambda: not child_processes.is_alive(detached))


def test_a_detached_process_is_asked_to_end(doomed: list[child_processes.Identity], tmp_path: Path) -> None:
    detached = child_processes.spawn_detached(python(IDLE), log=tmp_path / "log")
    doomed.append(detached)
    child_processes.terminate(detached)
    until(lambda: not child_processes.is_alive(detached))


def test_run_returns_what_was_said() -> None:
    done = child_processes.run(
        python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(4)"), timeout_s=WAIT_S
    )
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (4, "out", "err")


def test_run_ends_what_does_not_end_by_itself(tmp_path: Path) -> None:
    with pytest.raises(TimedOut, match="did not end"):
        child_processes.run(python(IDLE), timeout_s=0.2)


def test_a_character_the_console_lacks_is_no_error() -> None:
    code = "from nodestore.processes.child_processes import utf8_stdio; utf8_stdio(); print('\\u2713\\udcff')"
    done = child_processes.run(python(code), timeout_s=WAIT_S, env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "✓?"


# --- what a started program inherits ---------------------------------------------------------------------------------

LOOP = "(while :; do echo x; done) | head -n 1; echo ended"


@POSIX
@pytest.mark.parametrize("die_with_parent", [False, True])
async def test_a_program_begins_with_default_signals(die_with_parent: bool) -> None:
    """Python ignores SIGPIPE and SIGXFSZ; a program that inherited that would not end with its reader."""
    child = await child_processes.spawn(
        ["sh", "-c", LOOP], stdout=child_processes.PIPE, die_with_parent=die_with_parent
    )
    try:
        assert [await line(child), await line(child)] == ["x", "ended"]
    finally:
        await child.stop(0)


_RESERVED_SIGNALS = 0b11 << 31
"""Signals 32 and 33: the C library uses them for its threads, and no function of it changes how they are blocked."""


@LINUX
async def test_a_program_inherits_no_ignored_or_blocked_signal(tmp_path: Path) -> None:
    """Not even those that the starting process itself inherited, such as SIGHUP from nohup."""
    code = (
        "import asyncio, signal\nfrom pathlib import Path\nfrom nodestore.processes import child_processes\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})\n"
        "async def main():\n"
        "    argv = ['grep', '-E', 'Sig(Ign|Blk)', '/proc/self/status']\n"
        "    await (await child_processes.spawn(argv, stdout=Path('found'), die_with_parent=True)).wait()\n"
        "asyncio.run(main())\n"
    )
    child = await child_processes.spawn(python(code), cwd=tmp_path)
    assert await child.wait() == 0
    masks = [int(text.split()[1], 16) for text in (tmp_path / "found").read_text().splitlines()]
    assert [mask & ~_RESERVED_SIGNALS for mask in masks] == [0, 0]


@LINUX
@pytest.mark.parametrize("detached", [False, True])
async def test_the_environment_is_the_programs_alone(tmp_path: Path, detached: bool) -> None:
    """A variable that breaks the Python that starts the program reaches the program all the same, unchanged."""
    (tmp_path / "libc.so.6").write_bytes(b"no library")
    environment = {"LD_LIBRARY_PATH": str(tmp_path), "TEXT": "a=b\nü", "PATH": os.environ["PATH"]}
    busybox = [sys.executable, "-c", "print(1)"]
    probe = await child_processes.spawn(busybox, env=environment, stdout=tmp_path / "probe", die_with_parent=True)
    assert await probe.wait() != 0
    assert b"python" in (tmp_path / "probe").read_bytes()  # the program itself fails, not what started it
    assert b"launch" not in (tmp_path / "probe").read_bytes()
    environment["LD_LIBRARY_PATH"] = "/nowhere"
    code = "import os; print(dict(os.environ))"
    log = tmp_path / "log"
    if detached:
        with contextlib.suppress(child_processes.EndedAtOnce):
            child_processes.spawn_detached(python(code), env=environment, log=log)
    else:
        await (await child_processes.spawn(python(code), env=environment, stdout=log, die_with_parent=True)).wait()
    until(lambda: log.exists() and log.read_bytes().endswith(b"}\n"))
    found = ast.literal_eval(log.read_text())
    assert {name: found[name] for name in environment} == environment
    assert set(found) - set(environment) <= {"LC_CTYPE"}  # CPython adds it


ORPHANS = """
import ctypes, os, signal, sys, time
from nodestore.processes import first_process
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what process 1 is in a container

def work():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)  # an orphan, once its parent has ended
        os._exit(0)
    os.wait()
    print("works", flush=True)
    time.sleep(600)

sys.exit(first_process.run_in_fork(work))
"""


@LINUX
async def test_the_first_process_reaps_orphans_and_passes_signals_on() -> None:
    """No zombie stays, SIGTERM reaches the worker, and its exit code is that of the whole."""
    child = await child_processes.spawn(python(ORPHANS), stdout=child_processes.PIPE)
    try:
        assert await line(child) == "works"
        first = psutil.Process(child.pid)
        until(lambda: len(first.children()) == 1)  # the worker: the orphan was reaped
        os.kill(child.pid, signal.SIGTERM)
        async with asyncio.timeout(WAIT_S):
            assert await child.wait() == 7
    finally:
        await child.stop(0)


@LINUX
@pytest.mark.skipif(os.geteuid() != 0, reason="a process namespace needs root")
async def test_noded_as_process_1_leaves_no_zombies() -> None:
    """In a namespace of its own, the module sees that it is process 1."""
    code = "import os, sys\nfrom nodestore.processes import first_process\n"
    code += "sys.exit(first_process.run_reaping_orphans(lambda: print(os.getpid(), flush=True) or 5))"
    argv = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *python(code)]
    child = await child_processes.spawn(argv, stdout=child_processes.PIPE)
    try:
        assert await line(child) == "2"
        async with asyncio.timeout(WAIT_S):
            assert await child.wait() == 5
    finally:
        await child.stop(0)
