"""The conformance test for drivers: the shipped ones pass it, and each way of breaking the contract is found."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from noded.drivers.builtin.exec import ExecDriver
from noded.drivers.builtin.file import FileDriver
from noded.drivers.builtin.process import ProcessDriver
from noded.drivers.conformance import Limits, Nonconformance, check_driver, checks, examine
from noded.drivers.conformance.__main__ import main
from noded.drivers.conformance.bench import Bench
from noded.drivers.contract import Actual, Context, DriverAction, DriverError, Settings, parse_settings
from nodestore.schema.models import Spec
from nodestore.support.jsonio import Document, Json

EXAMPLE = Path(__file__).parents[3] / "examples" / "driver"
SLEEP = ["{python}", "-c", "import time; time.sleep(600)"]

ECHO = {"echo": ["{python}", "-c", "import sys; sys.stdout.write(sys.stdin.read())"]}


def spec(settings: Any, **document: Any) -> Spec:
    return Spec(driver="any", settings=settings, document=document)


SOON = Limits(stable_s=0.05)
"""For drivers whose state does not change by itself: it need not be watched for long."""


def long(test: Any) -> Any:
    """For a test that brings things about a hundred times, on a machine that may be busy."""
    return pytest.mark.nightly(pytest.mark.timeout(400)(test))


# --- what is shipped -------------------------------------------------------------------------------------------------


@long
def test_process() -> None:
    """With a health check, a reload, and a restart."""
    quick = ["{python}", "-c", ""] if os.name == "nt" else ["true"]
    healthy = {"argv": quick, "every_s": 0.1, "timeout_s": 60}
    settings = {"argv": SLEEP, "grace_s": 0, "health": healthy, "actions": ECHO}
    check_driver(
        ProcessDriver,
        [spec(settings, scene="one"), spec(settings, scene="two"), spec({**settings, "env": {"A": "B"}})],
        look=lambda work_dir: (work_dir / "document.json").read_bytes(),
        actions={"echo": {"n": 1}},
    )


def test_exec() -> None:
    """The `exec` driver passes with a command that prints its input."""
    settings = {"argv": ECHO["echo"], "actions": ECHO}
    specs = [spec(settings, scene="one"), spec(settings, scene="two")]
    check_driver(ExecDriver, specs, actions={"echo": {"n": 1}}, limits=SOON)


def test_file() -> None:
    """With a template, another path, and a reload."""
    reload = {"argv": ["{python}", "-c", "import sys; sys.exit(0)"]}
    check_driver(
        FileDriver,
        [
            spec({"path": "a/b.conf", "template": "${scene}", "reload": reload}, scene="one"),
            spec({"path": "a/b.conf", "template": "${scene}", "reload": reload}, scene="two"),
            spec({"path": "c.json"}, scene="two"),
        ],
        look=lambda work_dir: (work_dir / "a" / "b.conf").read_bytes(),
        limits=SOON,
    )


@long
def test_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """What authors copy from is right itself."""
    monkeypatch.syspath_prepend(EXAMPLE)
    importlib.import_module("test_hosts_driver").test_the_driver_keeps_its_contract()


# --- a driver that keeps the contract, and ways to break it ----------------------------------------------------------


class LampSettings(Settings):
    port: int = 1


class Lamp:
    """A lamp that is a file. Keeps the contract."""

    settle_s: float = 0.0

    def __init__(self, context: Context) -> None:
        self.context = context
        self.path = context.work_dir / "lamp"
        self.level: int | None = None

    async def inspect(self) -> Actual:
        if self.level is None:
            return Actual()
        found = self.path.read_text() if self.path.exists() else ""
        return Actual({"level": found}, None if found == str(self.level) else "somebody was at the lamp")

    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        parse_settings(LampSettings, spec.settings)
        level = spec.document.get("level")
        if not isinstance(level, int):
            raise DriverError("document: level is not a number", retryable=False)
        await asyncio.sleep(0.02)
        self.path.write_text(str(level))
        self.level = level

    async def stop(self) -> None:
        self.level = None


ONE, TWO = spec({"port": 1}, level=1), spec({"port": 1}, level=2)


def look(work_dir: Path) -> object:
    return {path.name: path.read_text() for path in work_dir.iterdir()}


class Blinking(Lamp):
    """A lamp that can also blink."""

    actions: Mapping[str, DriverAction]

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.actions = {"blink": DriverAction(self.blink)}

    async def blink(self, args: Document) -> Json:
        times = args.get("times", 1)
        if not isinstance(times, int):
            raise DriverError("times is not a number")
        await asyncio.sleep(0.02)
        return {"blinked": times}


BLINK: dict[str, Document] = {"blink": {"times": 3}}


def test_a_good_driver_with_actions_passes() -> None:
    """One that is to be tried, with odd arguments too."""
    check_driver(Blinking, [ONE], look=look, actions=BLINK, limits=SOON)


async def test_actions_that_are_not_tried() -> None:
    """Actions that are not tried are reported; a driver without actions has none."""
    verdicts = {result.detail: result.verdict for result in await examine(Blinking, [ONE], limits=SOON)}
    assert verdicts["needs an action to try"] == "skipped"


def test_a_good_driver_passes() -> None:
    """In all checks, with and without a second spec."""
    check_driver(Lamp, [ONE, TWO], look=look, limits=SOON)


async def test_what_cannot_be_tried_is_said() -> None:
    """A missing second spec, a class that no other process can import."""
    results = await examine(lambda context: Lamp(context), [ONE], limits=SOON)
    assert [result.check for result in results if result.verdict == "skipped"] == [
        "specs can be changed from one to another and back",
        "the next noded can apply the spec after noded was killed",
    ]
    assert [result.detail for result in results if result.verdict == "failed"] == []
    with pytest.raises(ValueError, match="at least one spec"):
        await examine(Lamp, [])


class RaisesInInspect(Lamp):
    async def inspect(self) -> Actual:
        raise KeyError("no")


class RaisesOnOddDocuments(Lamp):
    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        await super().apply(spec.model_copy(update={"document": {"level": int(spec.document["level"])}}), previous)


class AlwaysDrifts(Lamp):
    async def inspect(self) -> Actual:
        return Actual({}, "never right")


class CannotTell(Lamp):
    async def inspect(self) -> Actual:
        raise DriverError("no answer")


class ReturnsNothing(Lamp):
    async def inspect(self) -> Actual:
        return None  # type: ignore[return-value]


class StateIsNotJson(Lamp):
    async def inspect(self) -> Actual:
        return Actual({"lamp": self})


class SettlesNever(Lamp):
    settle_s = float("nan")


class SettlesInNoTime(Lamp):
    async def inspect(self) -> Actual:
        return Actual(unsettled_s=float("nan"))


class CountsInItsState(Lamp):
    count = 0

    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        await super().apply(spec, previous)
        self.count += 1

    async def inspect(self) -> Actual:
        return Actual({"count": self.count})


class Appends(Lamp):
    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        await super().apply(spec, previous)
        with (self.context.work_dir / "log").open("a") as file:
            file.write("again\n")


class NeverGoesBack(Lamp):
    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        await super().apply(spec, previous)
        if spec.document["level"] == 2:
            (self.context.work_dir / "two was here").touch()


class StopsOnce(Lamp):
    async def stop(self) -> None:
        if self.level is None:
            raise DriverError("is not running")
        await super().stop()


class LeavesATask(Lamp):
    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        await super().apply(spec, previous)
        self.context.tasks.create_task(asyncio.sleep(600))


class LeavesAThread(Lamp):
    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        await super().apply(spec, previous)
        threading.Thread(target=time.sleep, args=(5,), name="lamp", daemon=True).start()


class LeavesAProcessWhenCut(Lamp):
    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        blink = _blinking()
        await super().apply(spec, previous)
        blink.kill()
        blink.wait()


started: list[subprocess.Popen[bytes]] = []


def _blinking() -> subprocess.Popen[bytes]:
    started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
    return started[-1]


class TaskFails(Lamp):
    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        await super().apply(spec, previous)
        self.context.tasks.create_task(self.fail())
        await asyncio.sleep(0.1)

    async def fail(self) -> None:
        raise KeyError("lamp")


class ForgetsAFuture(Lamp):
    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        await super().apply(spec, previous)
        asyncio.get_running_loop().create_future().set_exception(OSError("lost"))


class MistakesACancellation(Lamp):
    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        try:
            await super().apply(spec, previous)
        except asyncio.CancelledError:
            raise RuntimeError("cancelled?") from None


class DoesNotEnd(Lamp):
    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        await asyncio.Event().wait()


class Blocks(Lamp):
    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        await super().apply(spec, previous)
        time.sleep(1.2)  # noqa: ASYNC251 - that is what it is to be caught at


class WakesAtEachLook(Lamp):
    async def inspect(self) -> Actual:
        self.context.wake()
        return await super().inspect()


class WakesFromAThread(Lamp):
    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        await super().apply(spec, previous)
        await asyncio.to_thread(self.context.wake)


class ChangesBeforeItRefuses(Lamp):
    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        self.path.write_text("0")
        await super().apply(spec, previous)


class SaysTooMuch(Lamp):
    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        try:
            await super().apply(spec, previous)
        except DriverError as error:
            raise DriverError(f"Traceback:\n  {error.message}", retryable=False) from None


class LocksForEver(Lamp):
    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        lock = self.context.work_dir / "lock"
        if lock.exists() and self.level is None:
            raise DriverError("the lamp is locked")
        lock.touch()
        await super().apply(spec, previous)

    async def stop(self) -> None:
        (self.context.work_dir / "lock").unlink(missing_ok=True)
        await super().stop()


class CannotBeMade(Lamp):
    def __init__(self, context: Context) -> None:
        raise OSError("no such lamp")


class NamesItsActionBadly(Blinking):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.actions = {"reboot": DriverAction(self.blink)}


class OffersNoDriverAction(Blinking):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.actions = {"blink": self.blink}  # type: ignore[dict-item]


class ForgetsItsActions(Blinking):
    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        await super().apply(spec, previous)
        self.actions = {}


class BlinkRaises(Blinking):
    async def blink(self, args: Document) -> Json:
        return args["times"]


class BlinkFails(Blinking):
    async def blink(self, args: Document) -> Json:
        raise DriverError("no bulb")


class BlinkReturnsItself(Blinking):
    async def blink(self, args: Document) -> Json:
        return self


class BlinkHangs(Blinking):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.actions = {"blink": DriverAction(self.blink, 0.2)}

    async def blink(self, args: Document) -> Json:
        await asyncio.Event().wait()


class BlinkLeavesATask(Blinking):
    async def blink(self, args: Document) -> Json:
        self.context.tasks.create_task(asyncio.sleep(600))


class BlinkLeavesAProcessWhenCut(Blinking):
    async def blink(self, args: Document) -> Json:
        process = _blinking()
        await super().blink(args)
        process.kill()
        process.wait()


class CannotLookWhileItBlinks(Blinking):
    busy = False

    async def blink(self, args: Document) -> Json:
        self.busy = True
        await asyncio.sleep(0.02)
        self.busy = False

    async def inspect(self) -> Actual:
        if self.busy:
            raise RuntimeError("busy")
        await asyncio.sleep(0)
        if self.busy:
            raise RuntimeError("busy")
        return await super().inspect()


Check = Callable[[Bench], Awaitable[None]]


@pytest.mark.parametrize(
    ("broken", "check", "says"),
    [
        (CannotBeMade, checks.check_untouched, "making an instance raised OSError: no such lamp"),
        (RaisesInInspect, checks.check_untouched, "inspect raised KeyError: 'no', not a DriverError"),
        (RaisesOnOddDocuments, checks.check_odd_documents, "apply raised KeyError: 'level', not a DriverError"),
        (AlwaysDrifts, checks.check_apply_twice, "inspect after apply reports drift: never right"),
        (CannotTell, checks.check_untouched, "inspect after apply failed: no answer"),
        (ReturnsNothing, checks.check_untouched, "inspect returned None, not an Actual"),
        (StateIsNotJson, checks.check_untouched, "the state that inspect returned is not JSON"),
        (SettlesNever, checks.check_untouched, "settle_s is nan"),
        (SettlesInNoTime, checks.check_untouched, "unsettled_s is nan"),
        (
            CountsInItsState,
            checks.check_apply_twice,
            "applying again has changed the state: {'count': 1} became {'count': 2}",
        ),
        (Appends, checks.check_apply_twice, "applying again gives a different result"),
        (NeverGoesBack, checks.check_apply_others, "going to another spec and back gives a different result"),
        (StopsOnce, checks.check_stop_twice, "stop failed: is not running"),
        (LeavesATask, checks.check_restart, "after stop, the driver has left the task"),
        (LeavesAThread, checks.check_restart, "after stop, the driver has left the thread 'lamp'"),
        (LeavesAProcessWhenCut, checks.check_cancelled_apply, "after stop, the driver has left the process"),
        (TaskFails, checks.check_restart, "a background task raised KeyError: 'lamp': that would end noded"),
        (ForgetsAFuture, checks.check_restart, "the event loop reports an error: Future exception was never retrieved"),
        (
            MistakesACancellation,
            checks.check_cancelled_apply,
            "apply raised RuntimeError: cancelled? when it was cancelled",
        ),
        (DoesNotEnd, checks.check_restart, "apply did not end within 1 s"),
        (Blocks, checks.check_restart, "apply blocked the event loop for"),
        (WakesAtEachLook, checks.check_wakes, "every inspect calls wake"),
        (WakesFromAThread, checks.check_wakes, "wake was called from another thread"),
        (ChangesBeforeItRefuses, checks.check_refusals, "reports drift: somebody was at the lamp"),
        (SaysTooMuch, checks.check_refusals, "the message of a DriverError is not one line"),
        (LocksForEver, checks.check_kill, "apply of a spec that should succeed failed: the lamp is locked"),
        (
            NamesItsActionBadly,
            checks.check_actions,
            "an action cannot be named 'reboot': noded has its own",
        ),
        (OffersNoDriverAction, checks.check_actions, "action blink is not a DriverAction"),
        (ForgetsItsActions, checks.check_actions, "after apply there is no action blink (there is: none)"),
        (BlinkRaises, checks.check_actions, "action blink raised KeyError: 'times', not a DriverError"),
        (BlinkFails, checks.check_actions, "action blink that should succeed failed: no bulb"),
        (BlinkReturnsItself, checks.check_actions, "what action blink returned is not JSON"),
        (BlinkHangs, checks.check_actions, "action blink did not end within 0.2 s"),
        (BlinkLeavesATask, checks.check_actions, "after stop, the driver has left the task"),
        (BlinkLeavesAProcessWhenCut, checks.check_actions, "after stop, the driver has left the process"),
        (CannotLookWhileItBlinks, checks.check_actions, "inspect raised RuntimeError: busy"),
        (DoesNotEnd, checks.check_kill, "apply in a process of its own failed: it did not end within 1 s"),
    ],
)
async def test_each_way_of_breaking_it_is_found(broken: Any, check: Check, says: str, tmp_path: Path) -> None:
    """The finding describes the violation, and the check itself ends properly."""
    call_s = 1.0 if broken is DoesNotEnd else 60.0
    limits = Limits(call_s=call_s, block_s=1.0 if broken is Blocks else 60.0, end_s=0.5, stable_s=0.2)
    with pytest.raises(Nonconformance) as found:
        await check(Bench(broken, (ONE, TWO), tmp_path, look, limits, BLINK))
    while started:
        with started.pop() as blink:
            blink.kill()
    assert says in str(found.value)


def test_all_that_is_broken_is_told() -> None:
    """One line a rule, from pytest's AssertionError."""
    with pytest.raises(AssertionError) as caught:
        check_driver(StopsOnce, [ONE], limits=Limits(end_s=0.5, stable_s=0.05))
    lines = str(caught.value).splitlines()
    assert "stop can be called twice, and apply works after it: stop failed: is not running" in lines
    assert all("stop" in line for line in lines)


# --- the command line ------------------------------------------------------------------------------------------------


@long
def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """By the name of an installed driver; each rule is a line."""
    settings = json.dumps({"path": "a.json"})
    assert main(["file", "--settings", settings, "--document", '{"a": 1}', "--then-document", "{}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"ok       {rule}" for rule, _ in checks.CHECKS]


def test_command_line_by_class(capsys: pytest.CaptureFixture[str]) -> None:
    """A class that is not installed; and exit code 1 when a rule is broken."""
    name = f"{__name__}:AlwaysDrifts"
    assert main([name, "--settings", '{"port": 1}', "--document", '{"level": 1}', "--limit", "30"]) == 1
    assert (
        "FAILED   applying a spec twice gives the same result as once: inspect after apply reports drift"
        in capsys.readouterr().out
    )


def test_command_line_with_an_action(capsys: pytest.CaptureFixture[str]) -> None:
    """An action can be given with or without arguments."""
    given = [f"{__name__}:Blinking", "--settings", '{"port": 1}', "--document", '{"level": 1}']
    assert main([*given, "--action", 'blink={"times": 2}', "--action", "blink"]) == 0
    assert "ok       actions succeed, can be cancelled, and leave nothing behind" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*given, "--action", "blink={"])
    assert "argument --action: not JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["relay"], "no driver named relay is installed"),
        (["no.such:Driver"], "no.such:Driver cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_command_line_without_a_driver(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    """One line, and exit code 2."""
    assert main(arguments) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]"])
def test_command_line_with_bad_json(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """The error names the option."""
    with pytest.raises(SystemExit) as ended:
        main(["file", "--settings", text])
    assert ended.value.code == 2
    assert "argument --settings: not " in capsys.readouterr().err
