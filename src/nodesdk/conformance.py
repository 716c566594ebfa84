"""Checks whether a driver keeps its contract: from pytest, or on the command line.

    def test_relay() -> None:
        check_driver(RelayDriver, [Spec(driver="relay", document={"on": True}), Spec(driver="relay", document={})])

    python -m nodesdk.conformance relay --settings '{"port": 3}' --document '{"on": true}'

The checks really run the driver, many times: it applies the specs and is stopped, cancelled and killed in between.
"""

from noded.drivers.conformance import Limits, Nonconformance, Result, check_driver, examine

__all__ = ["Limits", "Nonconformance", "Result", "check_driver", "examine"]

if __name__ == "__main__":
    import runpy

    runpy.run_module("noded.drivers.conformance", run_name="__main__", alter_sys=True)
