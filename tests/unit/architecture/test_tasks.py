"""No task of the programs can end unseen: tasks are started by nodestore.support.tasks or by a TaskGroup."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3] / "src"
_ALLOWED = {
    "nodestore/support/tasks.py": "starts the tasks of all others",
}
"""Modules that may start a task themselves, and why."""


def _starts(tree: ast.AST) -> Iterator[int]:
    """Lines that start a task without a TaskGroup: `asyncio.create_task`, `ensure_future`, `loop.create_task`, and a
    `to_thread` or `run_in_executor` whose result is not awaited at once."""
    awaited = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Await)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        starts = name == "ensure_future" or (name == "create_task" and (owner in ("", "asyncio") or "loop" in owner))
        if starts and owner not in ("loops",):
            yield node.lineno
        if name in ("to_thread", "run_in_executor") and id(node) not in awaited:
            yield node.lineno


def _found(path: Path) -> list[str]:
    return [f"{path.relative_to(ROOT).as_posix()}:{line}" for line in _starts(ast.parse(path.read_text("utf-8")))]


def test_tasks_are_started_where_their_failure_is_seen() -> None:
    paths = sorted(path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).as_posix() not in _ALLOWED)
    assert [line for path in paths for line in _found(path)] == []


def test_the_rule_finds_each_way_to_start_a_task() -> None:
    source = (
        "asyncio.create_task(f())\nasyncio.ensure_future(f())\nasyncio.get_running_loop().create_task(f())\n"
        "create_task(f())\nwait(asyncio.to_thread(f))\nawait asyncio.to_thread(f)\ngroup.create_task(f())\n"
    )
    assert sorted(_starts(ast.parse(source))) == [1, 2, 3, 4, 5]
