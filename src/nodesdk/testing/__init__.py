"""Tests of an application: in memory, in milliseconds, without etcd and without processes.

    def test_adding() -> None:
        harness = AppHarness(app, ["n1", "n2"])
        assert harness.run("counter.add", name="visitors") == 1

    def test_contract() -> None:
        check_app(app, lambda harness: harness.run("counter.add", name="visitors"))

The harness runs the same state machine as masterd. With pytest, the fixture `nodesdk_harness` is this class.
"""

from nodesdk.testing.checks import AppCheckResult, check_app, examine_app
from nodesdk.testing.harness import AppHarness, Outcome, PendingAction
from nodesdk.testing.nonconformance import AppNonconformance
from nodesdk.testing.recorded import Difference, check_replay, read_journal, replay

__all__ = [
    "AppCheckResult",
    "AppHarness",
    "AppNonconformance",
    "Difference",
    "Outcome",
    "PendingAction",
    "check_app",
    "check_replay",
    "examine_app",
    "read_journal",
    "replay",
]
