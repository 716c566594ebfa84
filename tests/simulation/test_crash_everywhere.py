"""Every kind of fault at every call of a leader to etcd: acknowledged commands stay, once and in order."""

from __future__ import annotations

import os

import pytest

from tests.simulation.faults import KINDS, CallFault
from tests.simulation.runs import run_with_fault

_STRIDE = 1 if os.environ.get("NODECTL_PROPERTIES") == "long" else 5
"""Every fifth call is tried, with another offset for each kind of fault; in long runs every call."""


def calls_without_fault() -> int:
    """The number of calls that the leader makes in the run without a fault."""
    fault = CallFault("none", 1 << 30)
    assert run_with_fault(fault) == []
    return fault.calls


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_at_any_call(kind: str) -> None:
    """After the fault no checker finds anything: no lost or repeated command, no write of a deposed leader, no stale
    view."""
    calls = calls_without_fault()
    first = KINDS.index(kind) % _STRIDE
    for number in range(first, calls, _STRIDE):
        fault = CallFault(kind, number)
        wrong = run_with_fault(fault)
        assert not wrong, f"{kind}, call {number} of {calls} ({fault.hit[:300]}): {wrong}"
