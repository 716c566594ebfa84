"""nodestore.procs against real processes."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from nodestore import procs
from nodestore.errors import NodectlError, TimedOut

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


async def line(child: procs.Child) -> str:
    assert child.stdout is not None
    async with asyncio.timeout(WAIT_S):
        return (await child.stdout.readline()).decode().strip()


def identity(pid: str | int) -> procs.Identity:
    found = procs.identify(int(pid))
    assert found is not None
    return found


@pytest.fixture
def doomed() -> Iterator[list[procs.Identity]]:
    """Processes that a test leaves to be killed, whatever happens to it."""
    processes: list[procs.Identity] = []
    yield processes
    for process in processes:
        procs.kill_tree(process)


pytestmark = pytest.mark.timeout(60)


def test_we_are_alive_and_a_later_owner_of_our_pid_would_not_be_us() -> None:
    me = identity(os.getpid())
    assert procs.alive(me)
    assert not procs.alive(replace(me, created=me.created + 0.01))


def test_a_recycled_pid_is_left_alone(doomed: list[procs.Identity], tmp_path: Path) -> None:
    """Whoever noted the old identity can do nothing to the process that has the number now."""
    now = procs.spawn_detached(python(IDLE), log=tmp_path / "log")
    doomed.append(now)
    before = replace(now, created=now.created - 1)
    procs.terminate(before)
    procs.kill_tree(before)
    with pytest.raises(NodectlError, match=str(now.pid)):
        procs.suspend(before)
    assert psutil.Process(now.pid).status() != psutil.STATUS_STOPPED
    assert procs.alive(now)


@LINUX
@pytest.mark.parametrize("name", ["etcd", "a b", "a) S 1 (b", ")) R ("])
def test_a_stat_line_is_read_whatever_the_name_holds(name: str) -> None:
    from nodestore import _procs_posix

    rest = " ".join(str(number) for number in range(4, 53))
    assert _procs_posix.parse_stat(f"4711 ({name}) R {rest}\n") == ("R", 22)


def test_the_exit_code_and_both_streams_come_back() -> None:
    async def scenario() -> None:
        child = await procs.spawn(
            python("import sys; print(sys.stdin.read()); print('bad', file=sys.stderr); sys.exit(3)"),
            stdin=procs.PIPE, stdout=procs.PIPE, stderr=procs.PIPE,
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
            child = await procs.spawn(python(code), stdout=tmp_path / "new" / "log")
            assert await child.wait() == 0

    asyncio.run(scenario())
    assert sorted((tmp_path / "new" / "log").read_text().split()) == ["one", "one!", "two", "two!"]


@pytest.mark.parametrize("program", ["no-such-program-anywhere", "./neither-is-this", "/nor/this"])
@pytest.mark.parametrize("die_with_parent", [False, True])
def test_a_missing_program_is_one_clear_error(program: str, die_with_parent: bool) -> None:
    with pytest.raises(NodectlError, match="no such program"):
        asyncio.run(procs.spawn([program], die_with_parent=die_with_parent))


def test_a_child_that_listens_stops_by_itself() -> None:
    async def scenario() -> int:
        child = await procs.spawn(python(IDLE))
        return await child.stop(WAIT_S)

    assert asyncio.run(scenario()) != 0


@POSIX
def test_a_child_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    async def scenario() -> int:
        child = await procs.spawn(python(DEAF), stdout=procs.PIPE)
        assert await line(child) == "ready"
        return await child.stop(0.2)

    assert asyncio.run(scenario()) == -9


@POSIX
def test_a_suspended_child_is_killed_after_the_grace() -> None:
    async def scenario() -> int:
        child = await procs.spawn(python(IDLE))
        procs.suspend(child.identity)
        until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_STOPPED)
        return await child.stop(0.2)

    assert asyncio.run(scenario()) == -9


def test_a_resumed_child_goes_on(doomed: list[procs.Identity]) -> None:
    async def scenario() -> None:
        child = await procs.spawn(python("input(); print('on')"), stdin=procs.PIPE, stdout=procs.PIPE)
        doomed.append(child.identity)
        procs.suspend(child.identity)
        if sys.platform != "win32":
            until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_STOPPED)
        procs.resume(child.identity)
        assert child.stdin is not None
        child.stdin.write(b"\n")
        assert await line(child) == "on"
        await child.wait()

    asyncio.run(scenario())


def test_stopping_takes_the_grandchildren_along() -> None:
    async def scenario() -> list[procs.Identity]:
        child = await procs.spawn(python(FAMILY), stdout=procs.PIPE)
        family = [identity(pid) for pid in (await line(child)).split()]
        assert all(procs.alive(member) for member in family)
        child.kill_tree()
        await child.wait()
        assert await line(child) == ""  # nobody holds the pipe any more
        return family

    for member in asyncio.run(scenario()):
        until(lambda member=member: not procs.alive(member))  # type: ignore[misc]


@POSIX
def test_what_a_dead_child_left_behind_in_its_session_is_found_by_its_identity() -> None:
    """As noded does after a crash: the identity it noted is enough, though the process is long gone."""
    code = "import subprocess as s, sys\nprint(s.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"

    async def scenario() -> procs.Identity:
        child = await procs.spawn(python(code), stdout=procs.PIPE)
        orphan = identity(await line(child))
        assert await child.wait() == 0  # though the orphan still holds its pipe
        assert not procs.alive(child.identity)
        assert procs.alive(orphan)
        procs.kill_tree(child.identity)
        assert await line(child) == ""  # the pipe is closed: the orphan is gone
        return orphan

    orphan = asyncio.run(scenario())
    until(lambda: not procs.alive(orphan))


MIDDLE = """
import asyncio, sys
from nodestore import procs
async def main():
    child = await procs.spawn([sys.executable, "-c", {code!r}], die_with_parent=True)
    print(child.pid, flush=True)
    await child.wait()
asyncio.run(main())
"""


def test_a_child_dies_with_its_killed_parent(doomed: list[procs.Identity]) -> None:
    """kill -9 gives the parent no chance to do anything about it."""

    async def scenario() -> procs.Identity:
        middle = await procs.spawn(python(MIDDLE.format(code=IDLE)), stdout=procs.PIPE)
        child = identity(await line(middle))
        doomed.append(child)
        psutil.Process(middle.pid).kill()
        await middle.wait()
        return child

    child = asyncio.run(scenario())
    until(lambda: not procs.alive(child))


@LINUX
def test_a_parent_that_died_before_the_launcher_asked_the_kernel_is_noticed() -> None:
    """The launcher starts with the pid of a parent that it no longer has."""
    launcher = Path(procs.__file__).with_name("_launch.py")
    somebody_else = str(os.getppid())
    done = procs.run(
        [sys.executable, launcher, "die", somebody_else, sys.executable, "-c", "print('ran')"], timeout_s=WAIT_S
    )
    assert (done.returncode, done.stdout) == (0, "")


@LINUX
def test_a_program_the_kernel_refuses_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF but not really")
    broken.chmod(0o755)

    async def scenario() -> tuple[int, bytes]:
        child = await procs.spawn([broken], stdout=procs.PIPE, die_with_parent=True)
        assert child.stdout is not None
        said = await child.stdout.read()
        return await child.wait(), said

    code, said = asyncio.run(scenario())
    assert code == 127
    assert f"cannot run {broken}" in said.decode()


DETACHER = """
import sys
from pathlib import Path
from nodestore import procs
found = procs.spawn_detached([sys.executable, "-c", {code!r}], log=Path(sys.argv[1]))
print(found.pid, flush=True)
"""


def test_a_detached_process_survives_its_spawner(doomed: list[procs.Identity], tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = DETACHER.format(code=f"print('hello', flush=True)\n{IDLE}")
    done = procs.run([*python(code), str(log)], timeout_s=WAIT_S)
    assert done.returncode == 0, done.stderr
    detached = identity(done.stdout)
    doomed.append(detached)
    until(lambda: log.read_text().strip() == "hello")
    assert procs.alive(detached)
    procs.kill_tree(detached)
    until(lambda: not procs.alive(detached))


def test_a_detached_process_is_asked_to_end(doomed: list[procs.Identity], tmp_path: Path) -> None:
    detached = procs.spawn_detached(python(IDLE), log=tmp_path / "log")
    doomed.append(detached)
    procs.terminate(detached)
    until(lambda: not procs.alive(detached))


def test_run_returns_what_was_said() -> None:
    done = procs.run(python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(4)"), timeout_s=WAIT_S)
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (4, "out", "err")


def test_run_ends_what_does_not_end_by_itself(tmp_path: Path) -> None:
    with pytest.raises(TimedOut, match="did not end"):
        procs.run(python(IDLE), timeout_s=0.2)


def test_a_character_the_console_lacks_is_no_error() -> None:
    code = "from nodestore.procs import utf8_stdio; utf8_stdio(); print('\\u2713\\udcff')"
    done = procs.run(python(code), timeout_s=WAIT_S, env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "✓?"
