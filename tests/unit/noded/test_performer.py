"""Actions on a driver: any behaviour of third-party code, and the reconcile loop during an action."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from noded.actions import performer as performer_module
from noded.actions.decide import ActionOutcome
from noded.actions.performer import Performer
from noded.drivers.contract import ActionFailed, Actual, Context, DriverAction, DriverError
from noded.reconcile import agent as agent_module
from noded.reconcile.planner import RetryDelays
from noded.settings import parse
from nodestore.schema.models import Action
from nodestore.support.jsonio import Document, Json
from tests.support.noded.agent_rig import FakeDriver, Rig, running


class Lamp(FakeDriver):
    """A driver with one action, which the test defines."""

    def __init__(self) -> None:
        super().__init__()
        self.result: Any = None
        self.hang: asyncio.Event | None = None
        self.raises: BaseException | None = None
        self.timeout_s = 60.0
        self.looks = 0

    @property
    def actions(self) -> Mapping[str, DriverAction]:
        return {"blink": DriverAction(self.blink, self.timeout_s)}

    async def inspect(self) -> Actual:
        self.looks += 1
        return await super().inspect()

    async def blink(self, args: Document) -> Json:
        self.calls.append(f"blink {args}")
        if self.hang is not None:
            await self.hang.wait()
        if self.raises is not None:
            raise self.raises
        return self.result


class Bench:
    """An agent that has applied "one", and what performs its actions."""

    def __init__(self, rig: Rig, work_dir: Path, reboot: tuple[str, ...] | None) -> None:
        self.rig = rig
        self.lamp = Lamp()
        rig.driver = self.lamp
        self._tasks = asyncio.TaskGroup()
        context = Context("n1", "test", work_dir, "nonce", lambda: None, self._tasks)
        self.performer = Performer(rig.agent, context, reboot)

    async def act(self, name: str = "blink", **args: Any) -> ActionOutcome | None:
        action = Action(index=7, name=name, args=args, actor="alice")
        async with self.performer.hold_driver(action):
            return await self.performer.perform(action)


@asynccontextmanager
async def bench(work_dir: Path, reboot: tuple[str, ...] | None = None) -> AsyncIterator[Bench]:
    async with running(work_dir) as rig:
        made = Bench(rig, work_dir, reboot)
        rig.order("one")
        await rig.ready(1)
        yield made


async def failure(at: Bench, name: str = "blink") -> str:
    outcome = await at.act(name)
    assert outcome is not None
    assert outcome.state == "failed"
    return str(outcome.error)


async def test_what_it_returns_is_the_result(tmp_path: Path) -> None:
    """The action gets the arguments, and its return value is the result."""
    async with bench(tmp_path) as at:
        at.lamp.result = {"times": 3}
        assert await at.act(times=3) == ActionOutcome("done", {"times": 3})
        assert at.lamp.calls == ["apply one", "blink {'times': 3}"]
        await at.rig.until(lambda: "blink (command 7, asked by alice)" in at.rig.told[-1].reason, "the reason")


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (DriverError("no bulb"), "no bulb"),
        (DriverError("two\nlines"), "two\\nlines"),
        (KeyError("lamp"), "KeyError: 'lamp'"),
        (asyncio.CancelledError(), "it was cancelled"),
    ],
)
async def test_what_it_raises_is_a_failure(tmp_path: Path, raised: BaseException, says: str) -> None:
    """The failure is one line, and noded continues."""
    async with bench(tmp_path) as at:
        at.lamp.raises = raised
        assert await failure(at) == says
        at.rig.order("two", 2)
        await at.rig.ready(2)


async def test_a_failure_with_a_result(tmp_path: Path) -> None:
    """Both the failure and the result are reported."""
    async with bench(tmp_path) as at:
        at.lamp.raises = ActionFailed("no bulb", {"volts": 0})
        assert await at.act() == ActionOutcome("failed", {"volts": 0}, "no bulb")


async def test_one_that_hangs_is_cut_off(tmp_path: Path) -> None:
    """An action that exceeds its timeout is cancelled, and noded continues."""
    async with bench(tmp_path) as at:
        at.lamp.hang, at.lamp.timeout_s = asyncio.Event(), 0.05
        assert await failure(at) == "it did not end within 0.05 s and was cancelled"
        at.rig.order("two", 2)
        await at.rig.ready(2)


async def test_one_that_does_not_end_though_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An action that ignores the cancellation is abandoned: noded does not wait for it for ever."""
    monkeypatch.setattr(performer_module, "_CANCEL_S", 0.05)
    async with bench(tmp_path) as at:
        release = asyncio.Event()

        async def stubborn(args: Document) -> Json:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return None

        at.lamp.blink = stubborn  # type: ignore[method-assign]
        at.lamp.timeout_s = 0.05
        assert "was cancelled" in await failure(at)
        release.set()


def _deep() -> Json:
    value: Json = {}
    for _ in range(60):
        value = [value]
    return value


@pytest.mark.parametrize(
    "result", [object(), {"x": float("nan")}, "x" * 100_000, _deep(), 1 << 2000, "\ud800", {(1, 2): 3}]
)
async def test_a_result_that_cannot_be_told_is_left_out(tmp_path: Path, result: Any) -> None:
    """It was done all the same; the record stays small and plain JSON."""
    async with bench(tmp_path) as at:
        at.lamp.result = result
        outcome = await at.act()
        assert outcome is not None
        assert outcome.state == "done"
        assert set(outcome.result) == {"omitted"}


async def test_an_action_that_there_is_not(tmp_path: Path) -> None:
    """The error lists the driver's actions; a driver without actions is valid."""
    async with bench(tmp_path) as at:
        expected = "driver fake has no action wink (this node has: restart, reboot, blink)"
        assert await failure(at, "wink") == expected
    async with running(tmp_path) as rig:
        plain = Bench(rig, tmp_path, None)
        rig.driver = FakeDriver()
        rig.order("one")
        await rig.ready(1)
        assert await failure(plain) == "driver fake has no action blink (this node has: restart, reboot)"


@pytest.mark.parametrize(
    ("offered", "says"),
    [
        ({"restart": DriverAction(lambda args: asyncio.sleep(0))}, "cannot be named 'restart'"),
        ({"a b": DriverAction(lambda args: asyncio.sleep(0))}, "action name 'a b' is not allowed"),
        ({"blink": lambda args: asyncio.sleep(0)}, "is not a DriverAction"),
        ({"blink": DriverAction(lambda args: asyncio.sleep(0), float("nan"))}, "is not a DriverAction"),
        (3, "its actions cannot be listed: TypeError"),
    ],
)
async def test_actions_that_are_none(tmp_path: Path, offered: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how the driver violates the contract."""
    monkeypatch.setattr(Lamp, "actions", offered)
    async with bench(tmp_path) as at:
        assert says in await failure(at)


async def test_before_anything_is_driven(tmp_path: Path) -> None:
    """There is no driver, and nothing to restart."""
    async with running(tmp_path) as rig:
        at = Bench(rig, tmp_path, None)
        rig.orders.observe(None)
        rig.agent.wake()
        await rig.until(lambda: rig.told, "a status")
        assert await failure(at) == "no driver is in effect on this node: its only actions are restart and reboot"
        assert "there is nothing to restart" in await failure(at, "restart")


# --- during an action ------------------------------------------------------------------------------------------------


async def test_no_apply_while_it_runs_but_looks(tmp_path: Path) -> None:
    """A new spec waits. The status is still updated, and shows failures during the action."""
    async with bench(tmp_path) as at:
        at.lamp.hang = asyncio.Event()
        acting = asyncio.create_task(at.act())
        await at.rig.until(lambda: "blink {}" in at.lamp.calls, "the action")
        at.rig.order("two", 2)
        at.lamp.found = Actual({"on": False}, "the bulb is broken", failed=True)
        await at.rig.until(lambda: at.rig.told[-1].actual == {"on": False}, "the status")
        looks = at.lamp.looks
        await at.rig.until(lambda: at.lamp.looks > looks + 2, "more looks")
        assert at.rig.told[-1].phase != "ready"
        assert at.lamp.calls == ["apply one", "blink {}"]
        at.lamp.found = Actual({"on": True})
        at.lamp.hang.set()
        await acting
        await at.rig.ready(2)
        assert at.lamp.calls == ["apply one", "blink {}", "apply two"]


async def test_it_waits_for_an_apply(tmp_path: Path) -> None:
    """One at a time has the driver."""
    async with bench(tmp_path) as at:
        at.lamp.hold = asyncio.Event()
        at.rig.order("two", 2)
        await at.rig.until(lambda: at.lamp.calls[-1] == "apply two", "the apply")
        acting = asyncio.create_task(at.act())
        await asyncio.sleep(0.05)  # time in which it must *not* act
        assert at.lamp.calls == ["apply one", "apply two"]
        at.lamp.hold.set()
        assert await acting == ActionOutcome("done")


async def test_rest_is_known_by_the_value_that_was_dealt_with(tmp_path: Path) -> None:
    """Each value is reported once when it was handled; a failed attempt counts too."""
    async with bench(tmp_path) as at:
        at.rig.reconciled.clear()
        assert at.performer.has_reconciled(at.rig.orders.raw)
        at.lamp.hold = asyncio.Event()
        at.lamp.trouble = [DriverError("no bulb")] * 3
        at.rig.order("two", 2)
        assert not at.performer.has_reconciled(at.rig.orders.raw)
        at.lamp.hold.set()
        await at.rig.until(lambda: at.performer.has_reconciled(at.rig.orders.raw), "rest")
        await at.rig.ready(2)
        assert at.rig.reconciled == [at.rig.orders.raw]


async def test_no_rest_while_another_host_drives(tmp_path: Path) -> None:
    """What is not obeyed has not been dealt with."""
    async with running(tmp_path, held=False) as rig:
        rig.presence.other_holder = "pc2"
        rig.order("one")
        await rig.until(lambda: rig.told, "a status")
        assert not rig.agent.has_reconciled(rig.orders.raw)


# --- restart ---------------------------------------------------------------------------------------------------------


async def test_restart_stops_and_applies_again(tmp_path: Path) -> None:
    """Once, and the node is ready again."""
    async with bench(tmp_path) as at:
        assert await at.act("restart") == ActionOutcome("done")
        assert at.lamp.calls == ["apply one", "stop", "apply one"]
        await at.rig.until(
            lambda: at.rig.told[-1].phase == "ready" and "action restart" in at.rig.told[-1].reason, "it"
        )
        await at.rig.until(lambda: at.lamp.looks > 5, "more looks")
        assert at.lamp.calls == ["apply one", "stop", "apply one"]


@pytest.mark.parametrize("calls", [["stop"], ["stop", "apply one"]])
async def test_a_restart_that_fails_half_way(tmp_path: Path, calls: list[str]) -> None:
    """The result reports the failure, and the loop reconciles the node."""
    async with bench(tmp_path) as at:
        trouble = iter([None] * (len(calls) - 1) + ["it hangs"])
        doing = at.lamp.apply, at.lamp.stop

        def troubled(call: Callable[..., Any]) -> Callable[..., Any]:
            async def run(*args: Any) -> None:
                await call(*args)
                if (said := next(trouble, None)) is not None:
                    raise DriverError(said)

            return run

        at.lamp.apply, at.lamp.stop = troubled(doing[0]), troubled(doing[1])  # type: ignore[method-assign]
        assert await failure(at, "restart") == "it hangs"
        assert at.lamp.calls == ["apply one", *calls]
        await at.rig.until(lambda: at.lamp.calls[-1] == "apply one" and len(at.lamp.calls) > 1 + len(calls), "repair")
        await at.rig.ready(1)


async def test_restart_while_the_new_state_is_refused(tmp_path: Path) -> None:
    """What is kept going is what is restarted."""
    async with bench(tmp_path) as at:
        at.lamp.trouble = [DriverError("never", retryable=False)]
        at.rig.order("two", 2)
        await at.rig.until(lambda: at.rig.told[-1].phase == "failed", "the refusal")
        assert await at.act("restart") == ActionOutcome("done")
        assert at.lamp.calls == ["apply one", "apply two", "stop", "apply one"]


async def test_restart_in_a_row_of_failures(tmp_path: Path) -> None:
    """It does not wait for the next attempt to be due."""
    async with running(tmp_path, backoff=RetryDelays(600.0, 600.0)) as rig:
        at = Bench(rig, tmp_path, None)
        at.lamp.trouble = [DriverError("no bulb")] * 3
        rig.order("one")
        await rig.until(lambda: rig.told and rig.told[-1].attempts == 1, "the failure")
        at.lamp.trouble = []
        assert await at.act("restart") == ActionOutcome("done")
        await rig.ready(1)


async def test_restart_is_done_only_when_it_has_settled(tmp_path: Path) -> None:
    """What was started must last: the action is not done before, and the status shows what it waits for."""
    async with bench(tmp_path) as at:
        at.lamp.found = Actual({"on": True}, unsettled_s=600.0, waits_for="it warms up")
        acting = asyncio.ensure_future(at.act("restart"))
        await at.rig.until(lambda: "it warms up" in at.rig.told[-1].reason, "the status")
        assert at.rig.told[-1].phase == "applying"
        assert not acting.done()
        at.lamp.found = Actual({"on": True})
        at.rig.agent.wake()
        assert await acting == ActionOutcome("done")


async def test_a_restart_of_what_ends_at_once_fails(tmp_path: Path) -> None:
    """The action's error is that of the program."""
    async with bench(tmp_path) as at:
        at.lamp.found = Actual({"on": True}, unsettled_s=600.0)
        acting = asyncio.ensure_future(at.act("restart"))
        await at.rig.until(lambda: at.lamp.calls.count("apply one") == 2, "the restart")
        at.lamp.found = Actual({"on": False}, "the program exited with code 1", failed=True)
        at.rig.agent.wake()
        assert await acting == ActionOutcome("failed", error="the program exited with code 1")


async def test_a_restart_that_does_not_settle_in_time_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is bounded, because nothing else is applied meanwhile."""
    monkeypatch.setattr(agent_module, "_SETTLE_WAIT_S", 0.05)
    async with bench(tmp_path) as at:
        at.lamp.found = Actual({"on": True}, unsettled_s=math.inf, waits_for="no health check has succeeded")
        assert "no health check has succeeded" in await failure(at, "restart")


# --- reboot ----------------------------------------------------------------------------------------------------------


def script(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


async def test_without_a_reboot_command_nothing_reboots(tmp_path: Path) -> None:
    """There is no default reboot command."""
    async with bench(tmp_path) as at:
        assert "--reboot-command" in await failure(at, "reboot")


async def test_the_reboot_command_is_run(tmp_path: Path) -> None:
    """The command is run even without the work directory. Its success does not prove the reboot."""
    path = tmp_path / "rebooted"
    async with bench(tmp_path / "gone", script(f"open({str(path)!r}, 'a').write('once')")) as at:
        assert await at.act("reboot") is None
    assert path.read_text() == "once"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (script("import sys; sys.exit('not allowed')"), "the reboot command failed: not allowed"),
        (("no-such-program-at-all",), "cannot start no-such-program-at-all: no such program"),
    ],
)
async def test_a_reboot_command_that_fails(tmp_path: Path, command: tuple[str, ...], says: str) -> None:
    """Its last words are the error."""
    async with bench(tmp_path, command) as at:
        assert await failure(at, "reboot") == says


def test_the_reboot_command_as_a_setting(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Split as a shell does; from the environment too; none unless given; nonsense is one line."""
    given = ["--node", "n1", "--cluster", "wall", "--work-dir", str(tmp_path)]
    assert parse(given, {}).reboot_command is None
    found = parse([*given, "--reboot-command", 'sh -c "a b"'], {}).reboot_command
    assert found == ("sh", "-c", "a b")
    assert parse(given, {"NODECTL_REBOOT_COMMAND": "shutdown -r now"}).reboot_command == ("shutdown", "-r", "now")
    if os.name == "nt":
        assert parse([*given, "--reboot-command", r'"C:\a b\x.exe" /r'], {}).reboot_command == (r"C:\a b\x.exe", "/r")
    for wrong in ('"', "''"):
        with pytest.raises(SystemExit) as ended:
            parse([*given, "--reboot-command", wrong], {})
        assert ended.value.code == 2
        assert "--reboot-command" in capsys.readouterr().err
