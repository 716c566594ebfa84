"""Actions that are commands, of the drivers `process` and `exec`, with real programs."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from noded.drivers.builtin.exec import ExecDriver
from noded.drivers.builtin.process import ProcessDriver
from noded.drivers.contract import ActionFailed, DriverError, actions_of
from noded.drivers.support.command import END_BYTES_KEPT
from noded.drivers.support.scripted import ActionSettings, same_but_for_actions
from nodestore.schema.models import Spec
from tests.support.noded.driver_rig import driver, until

SLEEP = ["{python}", "-c", "import time; time.sleep(600)"]

TELL = """
import json, os, sys
print(json.dumps({"args": json.load(sys.stdin), "cwd": os.path.basename(os.getcwd()),
                  **{name: os.environ.get(name) for name in ("NODECTL_ACTION", "NODECTL_NODE", "EXTRA")},
                  "document": os.environ.get("NODECTL_DOCUMENT") and json.load(open(os.environ["NODECTL_DOCUMENT"]))}))
"""

LINGER = """
import subprocess, sys
flags = {"start_new_session": True} if sys.platform != "win32" else {"creationflags": 8}
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **flags)
print(child.pid)
"""


def spec(kind: Any, code: str, **more: Any) -> Spec:
    argv = SLEEP if kind is ProcessDriver else ["{python}", "-c", ""]
    settings = {"argv": argv, "actions": {"go": ["{python}", "-c", code]}, **more}
    return Spec(driver="any", settings=settings, document={"scene": "one"})


async def go(made: Any, **args: Any) -> Any:
    action = actions_of("any", made)["go"]
    async with asyncio.timeout(60):
        return await action.run(args)


BOTH = pytest.mark.parametrize("kind", [ProcessDriver, ExecDriver])


@BOTH
async def test_what_it_gets_and_gives(tmp_path: Path, kind: Any) -> None:
    """Arguments on stdin, the driver's environment and directory, the document as the program has it."""
    async with driver(kind, tmp_path) as (made, _):
        await made.apply(spec(kind, TELL, env={"EXTRA": "x"}, cwd="here"), None)
        result = await go(made, times=3)
        assert result["exit_code"] == 0
        assert set(result) == {"exit_code", "output"}
        document = {"scene": "one"} if kind is ProcessDriver else None
        assert json.loads(result["output"]) == {
            "args": {"times": 3}, "cwd": "here", "NODECTL_ACTION": "go", "NODECTL_NODE": "n1", "EXTRA": "x",
            "document": document,
        }  # fmt: skip


@BOTH
async def test_there_are_none_before_apply_and_after_stop(tmp_path: Path, kind: Any) -> None:
    """The actions are those of the settings in force."""
    async with driver(kind, tmp_path) as (made, _):
        assert actions_of("any", made) == {}
        await made.apply(spec(kind, TELL), None)
        assert set(actions_of("any", made)) == {"go"}
        await made.apply(spec(kind, TELL, actions={}), None)
        assert actions_of("any", made) == {}
        await made.apply(spec(kind, TELL), None)
        await made.stop()
        assert actions_of("any", made) == {}


@BOTH
async def test_a_failure_is_its_last_line_and_all_it_said(tmp_path: Path, kind: Any) -> None:
    """Any exit code other than 0 is a failure; its result has the whole output."""
    code = "import sys; print('trying'); sys.stderr.write('first\\nno lamp\\n'); sys.exit(3)"
    async with driver(kind, tmp_path) as (made, _):
        await made.apply(spec(kind, code), None)
        with pytest.raises(ActionFailed, match=r"^no lamp$") as caught:
            await go(made)
        assert caught.value.result == {"exit_code": 3, "output": "trying\n", "errors": "first\nno lamp\n"}


async def test_a_failure_that_says_nothing(tmp_path: Path) -> None:
    """The exit code is the error."""
    async with driver(ExecDriver, tmp_path) as (made, _):
        await made.apply(spec(ExecDriver, "import sys; sys.exit(3)"), None)
        with pytest.raises(ActionFailed, match=r"^the command exited with code 3$"):
            await go(made)


async def test_only_the_end_of_much_output(tmp_path: Path) -> None:
    """And nothing in it that a terminal would obey."""
    code = "import sys; sys.stdout.buffer.write(b'x' * 300_000 + b'\\x1b[2J\\xff\\x00 the end')"
    async with driver(ExecDriver, tmp_path) as (made, _):
        await made.apply(spec(ExecDriver, code), None)
        output = (await go(made))["output"]
        assert output.endswith("xx\ufffd[2J\ufffd\ufffd the end")
        assert len(output) == END_BYTES_KEPT


@BOTH
async def test_it_is_ended_in_time(tmp_path: Path, kind: Any) -> None:
    """At its timeout the action is ended with all its child processes; the program continues."""
    code = LINGER.replace("print(child.pid)", "open('pid', 'w').write(str(child.pid)); child.wait()")
    code = code.replace("start_new_session", "close_fds")
    async with driver(kind, tmp_path) as (made, _):
        await made.apply(spec(kind, code, action_timeout_s=5), None)
        before = await made.inspect()
        with pytest.raises(DriverError, match=r"^the command did not end within 5 s$"):
            await go(made)
        await until(lambda: not psutil.pid_exists(int((tmp_path / "pid").read_text())), "its child to go")
        assert (await made.inspect()).state == before.state


async def test_exec_leaves_nothing(tmp_path: Path) -> None:
    """What has left the session goes, too."""
    async with driver(ExecDriver, tmp_path) as (made, _):
        await made.apply(spec(ExecDriver, LINGER), None)
        pid = int((await go(made))["output"])
        await until(lambda: not psutil.pid_exists(pid), "what it left behind to go")


@pytest.mark.skipif(os.name == "nt", reason="the job object takes it along")
async def test_process_ends_the_rest_with_the_program(tmp_path: Path) -> None:
    """What has left the session stays until the program ends: it could be the program's own."""
    async with driver(ProcessDriver, tmp_path) as (made, _):
        await made.apply(spec(ProcessDriver, LINGER), None)
        pid = int((await go(made))["output"])
        assert psutil.pid_exists(pid)
        await made.stop()
        await until(lambda: not psutil.pid_exists(pid), "what it left behind to go")


async def test_other_actions_do_not_restart_the_program(tmp_path: Path) -> None:
    """They are nothing that the program would notice."""
    async with driver(ProcessDriver, tmp_path) as (made, _):
        await made.apply(spec(ProcessDriver, TELL), None)
        pid = (await made.inspect()).state["pid"]
        await made.apply(spec(ProcessDriver, LINGER, action_timeout_s=5), None)
        assert (await made.inspect()).state["pid"] == pid
        assert actions_of("any", made)["go"].timeout_s == 35.0
        await made.apply(spec(ProcessDriver, LINGER, env={"A": "B"}), None)
        assert (await made.inspect()).state["pid"] != pid
    assert not same_but_for_actions(ActionSettings(), None)


@BOTH
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"actions": {"restart": SLEEP}},
            "an action cannot be named 'restart': noded has its own",
        ),
        ({"actions": {"a b": SLEEP}}, "action name 'a b' is not allowed"),
        ({"actions": {"go": []}}, "driver setting actions.go"),
        ({"actions": {"go": "ls"}}, "driver setting actions.go"),
        ({"action_timeout_s": 0}, "driver setting action_timeout_s"),
    ],
)
async def test_settings_that_make_no_sense(tmp_path: Path, kind: Any, settings: Any, says: str) -> None:
    """Invalid settings of actions are refused, as any other."""
    async with driver(kind, tmp_path) as (made, _):
        with pytest.raises(DriverError) as caught:
            await made.apply(spec(kind, TELL, **settings), None)
        assert says in caught.value.message
        assert not caught.value.retryable


async def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    """It is found out when it is asked for."""
    async with driver(ExecDriver, tmp_path) as (made, _):
        await made.apply(spec(ExecDriver, "", actions={"go": ["no-such-program-at-all"]}), None)
        with pytest.raises(DriverError, match="no such program"):
            await go(made)
