"""How PySyncObj is measured, by a program that answers as one of its processes does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.measures import raft_library
from bench.measures.raft_library import Variant, measure

_NODE = """
import json, sys
journal, synced, tick, patience, own, *others = sys.argv[1:]
leads = own == min([own, *others], key=lambda address: int(address.rpartition(":")[2]))
for line in sys.stdin:
    word, *numbers = line.split()
    if word == "leads":
        print(int(leads), flush=True)
    elif word == "load":
        assert leads, "load goes to the leader"
        print(json.dumps({"seconds": 2.0, "latencies_ms": [1.0] * int(numbers[0])}), flush=True)
    else:
        assert not leads, "the leader is killed"
        print(250.5, flush=True)
"""


async def test_each_variant_is_measured_and_its_leader_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates at the leader with 1 and 64 in flight; each kill in a cluster of its own."""
    program = tmp_path / "node.py"
    program.write_text(_NODE)
    monkeypatch.setattr(raft_library, "PROGRAM", program)
    monkeypatch.setattr(raft_library, "_STEADY_S", 0.0)
    monkeypatch.setattr(raft_library, "VARIANTS", (Variant("peer", "synced", 0.05, 0.0),))
    found = await measure(sys.executable, tmp_path / "work", 2)
    assert [(item.name, item.n, item.median, item.unit) for item in found] == [
        ("peer: 1 in flight", 1, 0.5, "1/s"),
        ("peer: 64 in flight", 1, 32.0, "1/s"),
        ("peer: leader killed (-9)", 2, 250.5, "ms"),
    ]
