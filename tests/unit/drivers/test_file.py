"""The driver `file`, with real files and commands."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noded.drivers.builtin.file import FileDriver
from noded.drivers.contract import DriverError
from noded.drivers.support import command
from noded.drivers.support.offloop import OffLoop
from nodestore.schema.models import Spec
from nodestore.support import atomic_files
from tests.support.noded.driver_rig import driver, until

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX")

COUNT = "import os; open('count', 'ab').write(open(os.environ['NODECTL_FILE'], 'rb').read() + b';')"
"""Appends what the file holds at each reload."""


def spec(document: Any = None, **settings: Any) -> Spec:
    return Spec(driver="file", settings={"path": "shown.conf", **settings}, document=document or {})


def reload(code: str = COUNT, **settings: Any) -> dict[str, Any]:
    return {"argv": ["{python}", "-c", code], **settings}


def template(text: str, **document: Any) -> Spec:
    return spec(document, template=text, reload=reload())


def drafts(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob("*.new")]


async def test_the_document_as_json_yaml_or_by_template(tmp_path: Path) -> None:
    """Each format, one after the other, in the same place."""
    path = tmp_path / "shown.conf"
    async with driver(FileDriver, tmp_path) as (file, _):
        document = {"scene": "Küche", "level": 3}
        await file.apply(spec(document), None)
        assert json.loads(path.read_bytes()) == document
        await file.apply(spec(document, format="yaml"), None)
        assert path.read_text("utf-8") == "scene: Küche\nlevel: 3\n"
        await file.apply(spec(document, template="now ${scene}\r\n"), None)
        assert path.read_bytes() == "now Küche\r\n".encode()
        actual = await file.inspect()
        assert actual.drift is None
        assert actual.state == {"path": str(path), "present": True, "bytes": 12, "hash": actual.state["hash"]}


async def test_absolute_paths_and_missing_directories(tmp_path: Path) -> None:
    """The file may lie anywhere; the directories on the way are made."""
    async with driver(FileDriver, tmp_path / "work") as (file, _):
        path = tmp_path / "etc" / "show" / "a.json"
        await file.apply(spec({"a": 1}, path=str(path)), None)
        assert json.loads(path.read_bytes()) == {"a": 1}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"path": ""}, "driver setting path"),
        ({"path": "a\x00b"}, "driver setting path"),
        ({"path": ".noded/applied.json"}, "driver setting path: .noded/applied.json is reserved for noded"),
        ({"path": "x/../.noded"}, "is reserved for noded"),
        ({"format": "text"}, "^driver settings: format text needs a template$"),
        ({"format": "json", "template": "x"}, "a template goes with format text, not json"),
        ({"format": "xml"}, "driver setting format"),
        ({"mode": "rw"}, "driver setting mode"),
        ({"mode": 420}, "driver setting mode"),
        ({"reload": {"argv": []}}, "driver setting reload.argv"),
        ({"reload": {"argv": ["x"], "timeout": 3}}, "driver setting reload.timeout"),
        ({"template": "${scene}"}, "^cannot make shown.conf: the template needs the key 'scene'"),
    ],
)
async def test_what_makes_no_sense_is_refused_before_anything_is_touched(
    tmp_path: Path, settings: Any, says: str
) -> None:
    """One sentence, not tried again, and the file before stays."""
    async with driver(FileDriver, tmp_path) as (file, _):
        await file.apply(spec({"a": 1}), None)
        before = (tmp_path / "shown.conf").read_bytes()
        with pytest.raises(DriverError, match=says) as caught:
            await file.apply(spec({"b": 2}, **settings), None)
        assert not caught.value.retryable
        assert (tmp_path / "shown.conf").read_bytes() == before
        assert (await file.inspect()).drift is None


def _remove(path: Path) -> None:
    path.unlink()


def _alter(path: Path) -> None:
    path.write_bytes(b"mine")


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _pipe(path: Path) -> None:
    path.unlink()
    if sys.platform != "win32":
        os.mkfifo(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_remove, "is missing"),
        (_alter, "was altered"),
        pytest.param(_link, "is not a regular file", marks=POSIX),
        pytest.param(_pipe, "is not a regular file", marks=POSIX),
    ],
)
async def test_drift_is_told_and_put_right(tmp_path: Path, change: Callable[[Path], None], says: str) -> None:
    """Any change of the file is reported as drift and corrected, and the reload command is run again."""
    path = tmp_path / "shown.conf"
    async with driver(FileDriver, tmp_path) as (file, _):
        wanted = spec({"scene": "one"}, template="${scene}", reload=reload(), symlink="replace")
        await file.apply(wanted, None)
        change(path)
        assert (await file.inspect()).drift == f"{path} {says}"
        await file.apply(wanted, wanted)
        assert (path.read_bytes(), path.is_symlink()) == (b"one", False)
        actual = await file.inspect()
        assert (actual.drift, actual.state["reloads"]) == (None, 2)
        assert (tmp_path / "count").read_bytes() == b"one;one;"


@POSIX
async def test_the_target_of_a_link_is_the_file(tmp_path: Path) -> None:
    """A configuration file that is kept elsewhere stays a link, also a link to a file that does not exist yet."""
    path, target = tmp_path / "shown.conf", tmp_path / "real" / "show.conf"
    path.symlink_to("real/show.conf")
    async with driver(FileDriver, tmp_path) as (file, _):
        wanted = template("${scene}", scene="one")
        await file.apply(wanted, None)
        assert (path.is_symlink(), target.is_symlink(), target.read_bytes()) == (True, False, b"one")
        target.write_bytes(b"mine")
        assert (await file.inspect()).drift == f"{path} was altered"
        await file.apply(wanted, wanted)
        assert (path.is_symlink(), target.read_bytes()) == (True, b"one")
        assert (await file.inspect()).drift is None
        path.unlink()
        path.symlink_to(path.name)
        with pytest.raises(DriverError, match="symbolic links"):
            await file.apply(wanted, wanted)
        (tmp_path / ".noded").mkdir(exist_ok=True)
        path.unlink()
        path.symlink_to(".noded/applied.json")
        with pytest.raises(DriverError, match="is reserved for noded"):
            await file.apply(wanted, wanted)


@POSIX
@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root gives files to other users")
async def test_owner_and_group(tmp_path: Path) -> None:
    """They are set by name or id and restored; without the settings, those that the file has are kept."""
    path = tmp_path / "shown.conf"

    def ids() -> tuple[int, int]:
        return path.stat().st_uid, path.stat().st_gid

    async with driver(FileDriver, tmp_path) as (file, _):
        wanted = spec({"a": 1}, owner="nobody", group=4242, mode="0640")
        await file.apply(wanted, None)
        nobody = ids()[0]
        assert (nobody != 0, ids()[1], path.stat().st_mode & 0o777) == (True, 4242, 0o640)
        os.chown(path, 0, 0)
        assert (await file.inspect()).drift == f"the owner of {path} is 0, not {nobody}"
        await file.apply(wanted, wanted)
        await file.apply(spec({"a": 2}), wanted)
        assert (ids(), path.stat().st_mode & 0o777) == ((nobody, 4242), 0o640)
        assert (await file.inspect()).drift is None
        with pytest.raises(DriverError, match="driver setting group: there is no 'no such group' on this PC") as caught:
            await file.apply(spec({"a": 3}, group="no such group"), None)
        assert caught.value.retryable


@POSIX
async def test_an_owner_that_cannot_be_kept_keeps_no_file_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A noded that is not root may write the file but not give it away; an owner that is asked for is an error."""

    def refuse(_path: Path, uid: int, gid: int) -> None:
        if (uid, gid) != (-1, -1):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    async with driver(FileDriver, tmp_path) as (file, _):
        await file.apply(spec({"a": 1}), None)
        monkeypatch.setattr(os, "chown", refuse)
        await file.apply(spec({"a": 2}), None)
        assert json.loads((tmp_path / "shown.conf").read_bytes()) == {"a": 2}
        with pytest.raises(DriverError, match="permission denied"):
            await file.apply(spec({"a": 3}, owner=12345), None)


@POSIX
async def test_mode(tmp_path: Path) -> None:
    """The mode is set and kept; without one, that of the file before is, so that a secret stays one."""
    path = tmp_path / "shown.conf"
    async with driver(FileDriver, tmp_path) as (file, _):
        wanted = spec({"a": 1}, mode="0600")
        await file.apply(wanted, None)
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o644)
        assert (await file.inspect()).drift == f"the mode of {path} is 0644, not 0600"
        await file.apply(wanted, wanted)
        assert path.stat().st_mode & 0o777 == 0o600
        await file.apply(spec({"a": 2}), wanted)
        assert path.stat().st_mode & 0o777 == 0o600
        assert (await file.inspect()).drift is None


# --- the reload ------------------------------------------------------------------------------------------------------


async def test_reload_runs_once_a_change(tmp_path: Path) -> None:
    """Not for what is so already, not at noded's restart; but for each change."""
    count = tmp_path / "count"
    one, two = template("${scene}", scene="one"), template("${scene}", scene="two")
    async with driver(FileDriver, tmp_path) as (file, _):
        await file.apply(one, None)
        await file.apply(one, one)
        assert count.read_bytes() == b"one;"
        await file.apply(two, one)
    async with driver(FileDriver, tmp_path, nonce="newer") as (file, _):
        await file.apply(two, None)
        assert count.read_bytes() == b"one;two;"
        await file.apply(one, two)
        assert count.read_bytes() == b"one;two;one;"


async def test_reload_that_failed_is_owed(tmp_path: Path) -> None:
    """Its last line is the error; the next attempt runs it again though the file is right, by a later noded too."""
    flaky = "import os, sys; os.path.exists('well') or sys.exit('no such service ✗');" + COUNT
    wanted = spec(
        {"scene": "one"},
        template="${scene}",
        reload=reload("import sys; sys.stderr.reconfigure(encoding='utf-8');" + flaky),
    )
    async with driver(FileDriver, tmp_path) as (file, _):
        for _ in range(2):
            with pytest.raises(
                DriverError, match=r"shown\.conf is written, but the reload command failed: no such service ✗"
            ) as caught:
                await file.apply(wanted, None)
            assert caught.value.retryable
        assert (tmp_path / "shown.conf").read_bytes() == b"one"
    (tmp_path / "well").touch()
    async with driver(FileDriver, tmp_path, nonce="newer") as (file, _):
        await file.apply(wanted, None)
        assert (tmp_path / "count").read_bytes() == b"one;"


class Cut(Exception):
    """Stands for a kill: nothing after it happens."""


@pytest.mark.parametrize(
    ("before", "told"),
    [("the write", b"one;two;"), ("the reload", b"one;two;"), ("the note that it was reloaded", b"one;two;two;")],
)
async def test_a_kill_at_any_moment_loses_no_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, told: bytes
) -> None:
    """noded is cut after each step, and the next one continues.

    The reload may run once too often, but must not be lost.
    """
    one, two = template("${scene}", scene="one"), template("${scene}", scene="two")
    write = atomic_files.write_atomic

    def cut_write(path: Path, content: bytes, mode: int | None = None, **more: Any) -> None:
        if (path.name == "reloaded") == (before != "the write"):
            raise Cut
        write(path, content, mode, **more)

    async def cut_run(*_: Any, **__: Any) -> None:
        raise Cut

    async with driver(FileDriver, tmp_path) as (file, _):
        await file.apply(one, None)
        with monkeypatch.context() as patch:
            if before == "the reload":
                patch.setattr(command, "run", cut_run)
            else:
                patch.setattr(atomic_files, "write_atomic", cut_write)
            with pytest.raises(Cut):
                await file.apply(two, None)
    async with driver(FileDriver, tmp_path, nonce="newer") as (file, _):
        await file.apply(two, None)
        assert (tmp_path / "shown.conf").read_bytes() == b"two"
        assert (tmp_path / "count").read_bytes() == told


async def test_a_disk_too_full_for_the_note_does_not_reload_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is reported at each attempt, and the command is run once."""
    write = atomic_files.write_atomic

    def full(path: Path, content: bytes, mode: int | None = None, **more: Any) -> None:
        if path.name == "reloaded":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content, mode, **more)

    async with driver(FileDriver, tmp_path) as (file, _):
        with monkeypatch.context() as patch:
            patch.setattr(atomic_files, "write_atomic", full)
            for _ in range(3):
                with pytest.raises(DriverError, match="the disk is full"):
                    await file.apply(template("${scene}", scene="one"), None)
        await file.apply(template("${scene}", scene="one"), None)
        assert (tmp_path / "count").read_bytes() == b"one;"


async def test_reload_is_ended_after_its_time_and_when_cancelled(tmp_path: Path) -> None:
    """The command delays nothing beyond its timeout, and leaves no process behind."""
    code = "import time; open('began', 'w').close(); time.sleep(600)"
    async with driver(FileDriver, tmp_path) as (file, _):
        with pytest.raises(DriverError, match=r"did not end within 0.5 s"):
            await file.apply(spec({"a": 1}, reload=reload(code, timeout_s=0.5)), None)
        (tmp_path / "began").unlink(missing_ok=True)
        applying = asyncio.ensure_future(file.apply(spec({"a": 1}, reload=reload(code)), None))
        await until((tmp_path / "began").exists, "the reload")
        applying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await applying


# --- disks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, "Input/output error"),
    ],
)
async def test_a_disk_that_refuses_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    """The error is one sentence with the path; the old file stays, no draft does, and later it succeeds."""
    path = tmp_path / "shown.conf"
    async with driver(FileDriver, tmp_path) as (file, _):
        await file.apply(spec({"a": 1}), None)
        before = path.read_bytes()

        def refuse(source: Path, target: Path) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(atomic_files, "replace_file", refuse)
            with pytest.raises(DriverError) as caught:
                await file.apply(spec({"a": 2}), None)
        assert caught.value.message == f"cannot write {path}: {says}"
        assert caught.value.retryable
        assert path.read_bytes() == before
        assert drafts(tmp_path) == []
        await file.apply(spec({"a": 2}), None)
        assert (await file.inspect()).drift is None


async def test_a_directory_in_its_place(tmp_path: Path) -> None:
    """A directory at the path of the file is not removed, because it may contain other files."""
    (tmp_path / "shown.conf").mkdir()
    async with driver(FileDriver, tmp_path) as (file, _):
        with pytest.raises(DriverError, match=r"cannot write .*shown\.conf: ") as caught:
            await file.apply(spec({"a": 1}), None)
        assert caught.value.retryable
    assert drafts(tmp_path) == []


async def test_a_disk_that_does_not_answer_holds_nothing_up(tmp_path: Path) -> None:
    """Each call ends in its time, there is one thread at most, and what was cut off is waited for."""
    disk = OffLoop("the test's disk")
    let = threading.Event()
    with pytest.raises(DriverError, match=r"the test's disk does not answer \(waited for 0.05 s\)"):
        await disk.run(let.wait, 0.05)
    before = threading.active_count()
    for _ in range(5):
        with pytest.raises(DriverError):
            await disk.run(lambda: 1, 0.01)
    assert threading.active_count() == before
    let.set()
    assert await disk.run(lambda: 2, 10) == 2
    await disk.wait_idle(0)


async def test_what_a_call_raises_is_raised(tmp_path: Path) -> None:
    """A call raises its own error. The error of an earlier call that was not awaited is dropped."""
    disk = OffLoop("disk")
    with pytest.raises(FileNotFoundError):
        await disk.run((tmp_path / "nothing").read_bytes, 10)
    cut = asyncio.ensure_future(disk.run((tmp_path / "nothing").read_bytes, 10))
    await asyncio.sleep(0)
    cut.cancel()
    await asyncio.wait({cut})
    assert await disk.run(lambda: 3, 10) == 3


@POSIX
@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
async def test_not_permitted(tmp_path: Path) -> None:
    """The error has the text of the operating system."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    async with driver(FileDriver, tmp_path / "work") as (file, _):
        with pytest.raises(DriverError, match="permission denied"):
            await file.apply(spec({"a": 1}, path=str(locked / "a.json")), None)
