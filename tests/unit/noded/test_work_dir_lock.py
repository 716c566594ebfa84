"""One noded a work directory."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from noded.registration import work_dir_lock
from noded.registration.work_dir_lock import locked
from nodestore.errors import Conflict
from nodestore.processes import child_processes

HOLD = """
import asyncio, sys
from pathlib import Path
from noded.registration.work_dir_lock import locked
async def main():
    async with locked(Path(sys.argv[1])):
        print("holds", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_a_second_noded_refuses_a_work_directory_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the first has ended, in whatever way, its content removed or not."""
    work = tmp_path / "w"
    argv = [sys.executable, "-c", HOLD, str(work)]
    child = await child_processes.spawn(argv, stdout=child_processes.PIPE)
    try:
        assert child.stdout is not None
        assert await child.stdout.readline() == b"holds\n"
        shutil.rmtree(work / ".noded", ignore_errors=True)
        monkeypatch.setattr(work_dir_lock, "_WAIT_S", 0.1)
        with pytest.raises(Conflict, match=f"another noded uses the work directory {work}: stop it"):
            async with locked(work):
                raise AssertionError("locked twice")
    finally:
        await child.stop(0)
    async with locked(work):
        pass


async def test_it_waits_for_the_end_of_a_noded_that_was_killed(tmp_path: Path) -> None:
    """The service manager may start the next one while the system still ends the last one."""
    child = await child_processes.spawn([sys.executable, "-c", HOLD, str(tmp_path)], stdout=child_processes.PIPE)
    assert child.stdout is not None
    assert await child.stdout.readline() == b"holds\n"
    child.kill_tree()
    async with locked(tmp_path):
        pass
    await child.stop(0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
async def test_a_new_work_directory_is_the_owners(tmp_path: Path) -> None:
    """One that exists keeps its mode, but noded's own part of it is restricted."""
    async with locked(tmp_path / "new"):
        modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "new", tmp_path / "new" / ".noded")]
        assert modes == [0o700, 0o700]
    own = tmp_path / "old" / ".noded"
    own.mkdir(parents=True)
    own.chmod(0o755)
    own.parent.chmod(0o755)
    async with locked(own.parent):
        assert [path.stat().st_mode & 0o777 for path in (own.parent, own)] == [0o755, 0o700]
