"""noded's reconcile loop with a scripted driver."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from noded.drivers.contract import Actual, DriverError
from noded.reconcile import agent as agent_module
from noded.reconcile.last_applied import LastApplied
from nodestore.schema.models import Desired, Spec
from tests.support.noded.agent_rig import desired, running


async def test_nothing_is_done_before_the_node_is_ours_and_etcd_was_read(tmp_path: Path) -> None:
    """Neither the claim alone nor the orders alone are enough to begin."""
    async with running(tmp_path, held=False) as rig:
        rig.order("one")
        await asyncio.sleep(0.1)  # time in which it must *not* act
        assert rig.driver.calls == []
        rig.presence.was_held = True
        rig.agent.wake()
        await rig.ready(1)


async def test_while_another_host_has_the_node_nothing_is_driven(tmp_path: Path) -> None:
    """What was begun without etcd ends when it turns out that the node is another host's; the file is kept."""
    LastApplied(tmp_path).save(desired("one"))
    async with running(tmp_path, held=False, start_wait_s=0.0) as rig:
        await rig.until(lambda: "apply one" in rig.driver.calls, "the offline start")
        rig.presence.other_holder = "pc2"
        rig.agent.wake()
        await rig.until(lambda: rig.driver.calls[-1] == "stop", "the stop")
        assert "pc2 drives this node" in rig.told[-1].reason
        assert LastApplied(tmp_path).load() == desired("one")


async def test_offline_start_gives_way_to_etcd(tmp_path: Path) -> None:
    """etcd's value replaces that of the file, even if its generation is lower or the key is deleted."""
    LastApplied(tmp_path).save(desired("one", generation=9))
    async with running(tmp_path, held=False, start_wait_s=0.0) as rig:
        await rig.until(lambda: "apply one" in rig.driver.calls, "the offline start")
        rig.presence.was_held = True
        rig.orders.observe(None)
        rig.agent.wake()
        await rig.until(lambda: rig.told[-1].phase == "idle", "idle")
        assert rig.driver.calls == ["apply one", "stop"]
        assert LastApplied(tmp_path).load() is None


async def test_without_a_claim_but_with_orders_it_begins_after_a_while(tmp_path: Path) -> None:
    """A full etcd grants no lease, so there is no claim. After a while noded applies the spec that etcd holds."""
    LastApplied(tmp_path).save(desired("old"))
    async with running(tmp_path, held=False, start_wait_s=0.05) as rig:
        rig.order("new", 2)
        await rig.ready(2)
        assert "apply old" not in rig.driver.calls


async def test_what_a_driver_raises_is_a_failure_like_any_other(tmp_path: Path) -> None:
    """Any exception of a driver is a failure that is retried, and does not end noded."""
    async with running(tmp_path) as rig:
        rig.driver.trouble = [DriverError("disk full"), RuntimeError("bug"), DriverError("disk full")]
        rig.order("one")
        await rig.ready(1)
        assert rig.driver.calls == ["apply one"] * 4
        errors = [status.error for status in rig.told if status.error]
        assert "disk full" in errors
        assert "driver fake: RuntimeError: bug" in errors


async def test_stop_is_tried_again(tmp_path: Path) -> None:
    """What could not be stopped is not forgotten."""
    async with running(tmp_path) as rig:
        rig.order("one")
        await rig.ready(1)
        rig.driver.trouble = [DriverError("it hangs")]
        rig.orders.observe(None)
        await rig.until(lambda: rig.told[-1].phase == "idle", "idle")
        assert rig.driver.calls == ["apply one", "stop", "stop"]


async def test_an_unknown_driver_does_not_stop_the_known_one(tmp_path: Path) -> None:
    """A mistyped driver name is refused before anything is stopped."""
    async with running(tmp_path) as rig:
        rig.order("one")
        await rig.ready(1)
        rig.order("two", 2, driver="fkae")
        await rig.until(lambda: rig.told[-1].phase == "failed", "the refusal")
        assert rig.told[-1].error == "no driver named fkae is installed"
        assert rig.told[-1].observed_generation == 2
        assert rig.driver.calls == ["apply one"]
        rig.order("three", 3)
        await rig.ready(3)
        assert rig.driver.calls == ["apply one", "apply three"]


async def test_drift_is_found_by_the_tick(tmp_path: Path) -> None:
    """Drift is detected at the next tick and corrected, without a notification."""
    async with running(tmp_path) as rig:
        rig.order("one")
        await rig.ready(1)
        rig.driver.found = Actual({}, "the lamp is off")
        await rig.until(lambda: rig.driver.calls.count("apply one") >= 2, "the repair")


@pytest.mark.parametrize("state", [{"x": object()}, {"x": "y" * 100_000}])
async def test_a_state_that_cannot_be_shown_is_left_out(tmp_path: Path, state: Any) -> None:
    """What a driver finds may be anything; the status stays small and JSON."""
    async with running(tmp_path) as rig:
        rig.driver.found = Actual(state)
        rig.order("one")
        status = await rig.ready(1)
        assert "omitted" in status.actual
        assert len(status.encode()) < 2_000


async def test_a_state_that_contains_itself_is_left_out_if_the_spec_holds_a_secret(tmp_path: Path) -> None:
    """The search for secrets in the state must not end noded."""
    state: dict[str, Any] = {}
    state["state"] = state
    spec = Spec(driver="fake", document={"scene": "one", "password": "hush-hush"})
    async with running(tmp_path) as rig:
        rig.driver.found = Actual(state)
        rig.orders.observe(Desired(epoch=1, term=1, generation=1, spec=spec).encode())
        rig.agent.wake()
        assert "omitted" in (await rig.ready(1)).actual


async def test_secrets_that_the_desired_state_marks_are_in_no_report_and_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the present spec, and in what the driver raised and found."""
    spec = Spec(driver="fake", document={"scene": "one", "pin": "canary-1", "player": {"stream": "canary-2"}})
    order = Desired(epoch=1, term=1, generation=1, spec=spec, secret_fields=("pin", "player.stream"))
    async with running(tmp_path) as rig:
        rig.driver.trouble = [DriverError("canary-1 is wrong, and so is canary-2")]
        rig.driver.found = Actual({"shows": "canary-2"})
        rig.orders.observe(order.encode())
        rig.agent.wake()
        await rig.ready(1)
        reports = b" ".join(status.encode() for status in rig.told).decode()
    assert "*** is wrong, and so is ***" in reports
    assert "canary" not in reports
    assert "canary" not in caplog.text


@pytest.mark.parametrize("unsettled_s", [math.nan, -1.0, "soon", None])
async def test_a_settling_time_that_is_no_time_is_an_error(tmp_path: Path, unsettled_s: Any) -> None:
    """A driver of the user's own cannot end noded with it."""
    async with running(tmp_path) as rig:
        rig.driver.found = Actual({}, unsettled_s=unsettled_s)
        rig.order("one")
        await rig.until(lambda: rig.told and rig.told[-1].error, "the error")
        assert str(rig.told[-1].error).startswith("driver fake cannot inspect the node: ")
        rig.driver.found = Actual({})
        await rig.ready(1)


async def test_a_state_that_must_still_last_is_shown_and_then_ready(tmp_path: Path) -> None:
    """The status names what the node waits for, in one line of bounded length."""
    async with running(tmp_path) as rig:
        rig.driver.found = Actual({}, unsettled_s=math.inf, waits_for="warms up\n" + "x" * 1_000)
        rig.order("one")
        await rig.until(lambda: rig.told and rig.told[-1].phase == "applying", "the phase")
        assert "warms up\\n" in rig.told[-1].reason
        assert len(rig.told[-1].reason) < 400
        rig.driver.found = Actual({})
        await rig.ready(1)


async def test_a_slow_apply_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only an apply that takes long is reported with its own status."""
    monkeypatch.setattr(agent_module, "_SHOW_APPLYING_S", 0.01)
    async with running(tmp_path) as rig:
        rig.driver.hold = asyncio.Event()
        rig.order("one")
        await rig.until(lambda: rig.told and rig.told[-1].phase == "applying", "phase applying")
        rig.driver.hold.set()
        await rig.ready(1)


async def test_the_end_stops_what_a_cut_off_apply_may_have_begun(tmp_path: Path) -> None:
    """noded is asked to stop in the middle of an apply."""
    async with running(tmp_path) as rig:
        rig.driver.hold = asyncio.Event()
        rig.order("one")
        await rig.until(lambda: rig.driver.calls == ["apply one"], "the apply to begin")
    await rig.agent.shut_down("test")
    assert rig.driver.calls == ["apply one", "stop"]
    assert (rig.told[-1].phase, rig.told[-1].observed_generation) == ("idle", 1)


async def test_what_failed_is_not_remembered(tmp_path: Path) -> None:
    """The file holds what was in effect last, not what was wanted last."""
    async with running(tmp_path) as rig:
        rig.order("one")
        await rig.ready(1)
        rig.driver.trouble = [DriverError("never", retryable=False)]
        rig.order("two", 2)
        await rig.until(lambda: rig.told[-1].phase == "failed", "the refusal")
    assert LastApplied(tmp_path).load() == desired("one")
