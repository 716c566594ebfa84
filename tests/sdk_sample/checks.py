"""A user's tests of the application and the driver."""

from __future__ import annotations

from pathlib import Path

from plant import app
from relay import RelayDriver

from nodesdk import Application, Invalid, Spec
from nodesdk.conformance import Limits, check_driver
from nodesdk.testing import AppHarness, Outcome, check_app, check_replay

INVENTORY = {"nodes": {"n1": {"position": [2, 0]}}, "defaults": {"driver": {"name": "relay"}}}


def use(harness: AppHarness) -> None:
    harness.run("plant.water", plant="fern", litres=1)
    harness.run("plant.pump", node="n1")
    harness.node_changed("n1", phase="failed", error="no water")
    harness.apply_config(["n1", "n2"])


def check_plant() -> None:
    harness = AppHarness(app, INVENTORY)
    use(harness)
    outcome: Outcome = harness.send("plant.names", {}, id="one", actor="ann")
    assert outcome.result == ["fern"]
    assert [action.name for action in harness.actions("n1")] == ["pump"]
    refused = harness.send("plant.water", {"plant": "fern", "litres": 11})
    assert isinstance(refused.error, Invalid)
    assert "litres" in refused.error.message
    harness.run("node.set", node="n1", values={"scene": "day"})
    harness.failover()
    check_replay(app, harness.journal)


def check_contract() -> None:
    application: Application = app
    check_app(application, use, INVENTORY, quick_s=1.0)


def check_relay(work_dir: Path) -> None:
    specs = [Spec(driver="relay", settings={"port": 1}, document={"on": on}) for on in (True, False)]
    check_driver(RelayDriver, specs, look=lambda work_dir: (work_dir / "relay").read_text(), limits=Limits(call_s=30))
