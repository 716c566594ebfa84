"""The driver `process` on a full disk, with programs that cannot handle their signal yet, and before it has settled."""

from __future__ import annotations

import asyncio
import errno
import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from noded.drivers.builtin.process import ProcessDriver
from noded.drivers.contract import Actual, DriverError
from nodestore.processes import posix
from nodestore.schema.models import Spec
from nodestore.support import atomic_files
from tests.support.noded.driver_rig import driver, until

RUN = "import time; time.sleep(600)"


def program(code: str = RUN, *, scene: str = "one", **settings: Any) -> Spec:
    settings = {"argv": ["{python}", "-c", code], "grace_s": 0, **settings}
    return Spec(driver="process", settings=settings, document={"scene": scene})


def runs(pid: int) -> bool:
    return posix.creation_time(pid) is not None


async def pid_of(process: ProcessDriver) -> int:
    return int((await process.inspect()).state["pid"])


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it: from then on no file can be written."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: monkeypatch.setattr(atomic_files, "write_atomic", refuse)


async def ended(process: ProcessDriver) -> Actual:
    """Kill the program, and wait until the driver has seen that."""
    os.kill(await pid_of(process), signal.SIGTERM)

    async def look() -> Actual | None:
        actual = await process.inspect()
        return actual if actual.failed else None

    async with asyncio.timeout(20):
        while (found := await look()) is None:
            await asyncio.sleep(0.02)
    return found


# --- a full or read-only disk ----------------------------------------------------------------------------------------


async def test_a_crashed_program_is_restarted_on_a_full_disk(tmp_path: Path, full_disk: Any) -> None:
    """Its document is there already, so nothing has to be written."""
    async with driver(ProcessDriver, tmp_path) as (process, _):
        await process.apply(program(), None)
        full_disk()
        await ended(process)
        await process.apply(program(), program())
        assert (await process.inspect()).state["running"] is True


@pytest.mark.parametrize("change", [{"grace_s": 3}, {"settle_s": 3}])
async def test_settings_of_the_supervision_restart_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    """They concern noded alone, so the program goes on, on a full disk too."""
    async with driver(ProcessDriver, tmp_path) as (process, _):
        await process.apply(program(), None)
        pid = await pid_of(process)
        await process.apply(program(**change), program())
        assert await pid_of(process) == pid


@pytest.mark.parametrize(
    "change", [{"scene": "two", "on_change": "restart"}, {"document_file": "other.json"}, {"argv": ["no-such-program"]}]
)
async def test_nothing_is_stopped_before_the_start_is_possible(
    tmp_path: Path, change: dict[str, Any], full_disk: Any
) -> None:
    """A restart whose document cannot be written, or whose program is missing, leaves the present program running."""
    async with driver(ProcessDriver, tmp_path) as (process, _):
        before = program(on_change="restart")
        await process.apply(before, None)
        pid = await pid_of(process)
        full_disk()
        with pytest.raises(DriverError) as caught:
            await process.apply(program(**{"on_change": "restart", **change}), before)
        assert caught.value.retryable
        assert runs(pid)
        actual = await process.inspect()
        assert (actual.state["pid"], actual.state["running"]) == (pid, True)


async def test_it_runs_with_the_previous_document_when_the_new_one_cannot_be_written(
    tmp_path: Path, full_disk: Any
) -> None:
    """A program that ends while the disk is full is started with what is there; the error stays."""
    async with driver(ProcessDriver, tmp_path) as (process, _):
        await process.apply(program(), None)
        full_disk()
        await ended(process)
        with pytest.raises(DriverError, match=r"document\.json: No space left"):
            await process.apply(program(scene="two"), program())
        assert (await process.inspect()).state["running"] is True
        assert json.loads((tmp_path / "document.json").read_bytes()) == {"scene": "one"}


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
async def test_a_named_pipe_in_place_of_the_document_does_not_block(tmp_path: Path) -> None:
    """It is drift like any other file, and is replaced."""
    async with driver(ProcessDriver, tmp_path) as (process, _):
        await process.apply(program(), None)
        (tmp_path / "document.json").unlink()
        os.mkfifo(tmp_path / "document.json")
        assert (await process.inspect()).drift == "document.json is missing"
        await process.apply(program(), program())
        assert (await process.inspect()).drift is None


# --- the reload signal -----------------------------------------------------------------------------------------------

LATE = """
import json, os, signal, sys, time
document = lambda *_: open("shown", "a").write(json.load(open(os.environ["NODECTL_DOCUMENT"]))["scene"] + "\\n")
document()
open("started", "w").close()
while not os.path.exists("go"):
    time.sleep(0.02)
signal.signal(signal.SIGHUP, document)
while True:
    time.sleep(0.02)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows which signals a process handles")
async def test_the_reload_signal_waits_for_its_handler(tmp_path: Path) -> None:
    """A program that is still starting is not killed by it, and gets it as soon as it can handle it."""
    async with driver(ProcessDriver, tmp_path) as (process, _):
        one, two = (program(LATE, scene=scene, reload_signal="SIGHUP", settle_s=60) for scene in ("one", "two"))
        await process.apply(one, None)
        await until((tmp_path / "started").exists, "the start")
        pid = await pid_of(process)
        await process.apply(two, one)
        await asyncio.sleep(0.3)  # time in which no signal may be sent
        actual = await process.inspect()
        assert (actual.state["running"], actual.unsettled_s) == (True, math.inf)
        assert "no handler for SIGHUP" in actual.waits_for
        (tmp_path / "go").touch()
        await until(lambda: (tmp_path / "shown").read_text() == "one\ntwo\n", "the reload")
        assert await pid_of(process) == pid


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows which signals a process handles")
async def test_a_program_that_never_handles_its_reload_signal_is_restarted(tmp_path: Path) -> None:
    """The signal would end it without grace, so it is a failure that is reported, and a restart reads the document."""
    async with driver(ProcessDriver, tmp_path) as (process, _):
        one, two = (program(scene=scene, reload_signal="SIGUSR1", settle_s=0) for scene in ("one", "two"))
        await process.apply(one, None)
        pid = await pid_of(process)
        await process.apply(two, one)
        async with asyncio.timeout(20):
            while not (actual := await process.inspect()).failed:
                assert actual.state["running"] is True
                await asyncio.sleep(0.02)
        assert actual.drift == "the program has no handler for SIGUSR1, which would end it: not sent"
        assert runs(pid)
        await process.apply(two, two)
        after = await process.inspect()
        assert (after.drift, after.state["restarts"]) == (None, 1)


@pytest.mark.parametrize(
    ("masks", "handled"),
    [
        ("SigIgn:\t0000000000000000\nSigCgt:\t0000000000000001\n", True),
        ("SigIgn:\t0000000000000001\nSigCgt:\t0000000000000000\n", True),
        ("SigIgn:\t0000000000000000\nSigCgt:\tfffffffffffffffe\n", False),
    ],
)
def test_signal_masks(masks: str, handled: bool) -> None:
    """A signal that is handled or ignored ends nothing."""
    assert posix.signal_is_handled(f"Name:\tshow\n{masks}", signal.SIGHUP) is handled
    with pytest.raises(ValueError, match="no signal masks"):
        posix.signal_is_handled("Name:\tshow\n", signal.SIGHUP)


# --- settling --------------------------------------------------------------------------------------------------------


async def test_a_program_must_run_for_its_settling_time(tmp_path: Path) -> None:
    """Until then the state is not settled; a new document starts nothing, so it does not count anew."""
    async with driver(ProcessDriver, tmp_path) as (process, _):
        await process.apply(program(settle_s=0.4), None)
        actual = await process.inspect()
        assert 0 < actual.unsettled_s <= 0.4
        assert actual.waits_for == "the program counts as ready once it has run for 0.4 s"
        await asyncio.sleep(actual.unsettled_s)
        assert (await process.inspect()).unsettled_s == 0
        await process.apply(program(scene="two", settle_s=0.4), program(settle_s=0.4))
        assert (await process.inspect()).unsettled_s == 0


async def test_with_health_checks_the_first_success_decides(tmp_path: Path) -> None:
    """Not the time: a program that never becomes healthy is never ready, and a healthy one is at once."""
    check = {"argv": ["{python}", "-c", "import os, sys; sys.exit(not os.path.exists('well'))"], "every_s": 0.1}
    async with driver(ProcessDriver, tmp_path) as (process, woken):
        await process.apply(program(settle_s=0, health=check), None)
        actual = await process.inspect()
        assert actual.unsettled_s == math.inf
        assert "no health check has succeeded" in actual.waits_for
        (tmp_path / "well").touch()
        await woken.wait()
        assert (await process.inspect()).unsettled_s == 0
