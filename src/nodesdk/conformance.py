"""Checks whether a driver keeps its contract: from pytest, or on the command line.

    def test_relay() -> None:
        check_driver(RelayDriver, [Spec(driver="relay", document={"on": True}), Spec(driver="relay", document={})])

    python -m nodesdk.conformance relay --settings '{"port": 3}' --document '{"on": true}'

The driver really does what the specs say, many times: applied, stopped, cancelled in the middle, and killed.
"""

from noded.drivers.conformance import Limits, Nonconformance, Result, check_driver, examine

__all__ = ["Limits", "Nonconformance", "Result", "check_driver", "examine"]

if __name__ == "__main__":
    import runpy

    runpy.run_module("noded.drivers.conformance", run_name="__main__", alter_sys=True)
