"""Screens for people: fitted to the terminal, each problem once, secrets masked, a large cluster as a summary."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, cast

import pytest

from nodectl.terminal.format import grouped_problems, inline, nodes_summary, nodes_table
from nodectl.terminal.output import Output, Table, plain_table
from nodestore.schema.api_types import NodeView
from tests.support.cli import CallNodectl
from tests.support.fakes.masterd import FakeCluster, node_view

_STYLE = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    """Where tables are fitted to the width."""

    def isatty(self) -> bool:
        return True


def _lines(table: Table, width: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    shown = Terminal()
    Output(stdout=shown).show(None, tables=lambda: [table])
    return [line.rstrip() for line in _STYLE.sub("", shown.getvalue()).splitlines()]


def _views(count: int, **more: Any) -> list[NodeView]:
    return cast(list[NodeView], [node_view(f"node-{number}", **more) for number in range(count)])


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_long_problem_is_wrapped_at_words(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name, state or number is broken, however narrow the terminal."""
    problem = "retrying: the command exits with code 1: cannot open display :0, is the X server running on this PC?"
    spec = {"driver": "process", "settings": {"argv": ["/opt/show/show", "--fullscreen"]}, "document": {"a": "b" * 60}}
    views = _views(3, problem=problem, converged=False, position=[0, 1], spec=spec)
    lines = _lines(nodes_table(views), width, monkeypatch)
    assert max(len(line) for line in lines) <= width
    assert lines[0].split()[:2] == ["NODE", "STATE"]
    assert [line.split()[0] for line in lines if line.startswith("node-")] == ["node-0", "node-1", "node-2"]
    column = lines[0].index("PROBLEM")
    words = " ".join(line[column:] for line in lines[1:] if line[column - 2 : column].strip() == "").split()
    assert words == problem.split() * 3
    assert ("POSITION" in lines[0]) == (width > 80)


def test_a_table_that_cannot_fit_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells are folded."""
    table = Table(("A", "B"))
    table.add("x" * 60, "y" * 60)
    text = "".join(_lines(table, 40, monkeypatch))
    assert (text.count("x"), text.count("y")) == (60, 60)


def test_status_tells_each_problem_once(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """Not in the table of nodes as well."""
    cluster.nodes["n1"] = node_view("n1", problem="down: no noded is connected", converged=False, alive=None)
    cluster.problems = ["node n1: down: no noded is connected"]
    assert nodectl("status").out.count("no noded is connected") == 1
    assert "no noded is connected" in nodectl("node", "list").out


def test_status_before_the_first_configuration_says_what_comes_next(
    cluster: FakeCluster, nodectl: CallNodectl, tmp_path: Path
) -> None:
    """Not once there is one, even if it names no node."""
    cluster.nodes = {}
    assert "no configuration yet" in nodectl("status").out
    file = tmp_path / "empty.yaml"
    file.write_text("nodes: {}\n", "utf-8")
    assert nodectl("config", "apply", str(file), "--yes").code == 0
    assert "no configuration yet" not in nodectl("status").out


def test_the_status_of_a_thousand_nodes_is_a_summary(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """With the problems that they share on one line; JSON has all of them."""
    down = {"problem": "down: no noded is connected", "converged": False, "alive": None}
    cluster.nodes = {f"n{n}": node_view(f"n{n}", **(down if n < 900 else {})) for n in range(1_000)}
    cluster.problems = ["master m3: down", *(f"node n{n}: down: no noded is connected" for n in range(900))]
    ran = nodectl("status")
    assert len(ran.out.splitlines()) < 30
    assert "down   900    n0, n1, n2, n3, n4, n5, n6, n7 and 892 more" in ran.out
    assert "900 nodes (n0, n1, n2, n3, n4, n5, n6, n7 and 892 more): down: no noded is connected" in ran.out
    assert len(nodectl("status", "-o", "json").json()["nodes"]) == 1_000
    assert len(nodectl("status", "-o", "name").out.splitlines()) == 901
    cluster.problems = [f"node n{n}: retrying: error {n}" for n in range(900)]
    assert "and 870 more: `nodectl status -o name` lists all" in nodectl("status").out


def test_problems_of_few_nodes_keep_their_lines() -> None:
    """Three nodes are shown one by one, in the order of the problems."""
    problems = ["a", "node n1: x", "node n2: x", "node n3: x", "node n4: y"]
    assert grouped_problems(problems) == problems
    assert grouped_problems([*problems, "node n5: x"]) == ["a", "4 nodes (n1, n2, n3, n5): x", "node n4: y"]


def test_a_summary_counts_the_states() -> None:
    rows = plain_table(nodes_summary([*_views(2), *_views(3, alive=None)])).splitlines()
    assert [row.split()[:2] for row in rows] == [["STATE", "NODES"], ["down", "3"], ["ready", "2"]]


def test_secrets_are_masked_in_tables(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """Both in the node's own document and in its desired state."""
    spec = {"driver": "process", "settings": {"env": {"API_KEY": "***"}}, "document": {"text": "hello"}}
    cluster.nodes["n1"] = node_view("n1", document={"password": "hunter2", "text": "hello"}, spec=spec)
    for args in (["node", "list"], ["node", "show", "n1"]):
        shown = nodectl(*args).out
        assert "hunter2" not in shown
        assert "text=hello" in shown
        assert 'env={"API_KEY":"***"}' in shown
    assert "password=***" in nodectl("node", "show", "n1").out
    assert inline({"values": {"token": "t0p"}}) == 'values={"token":"***"}'
