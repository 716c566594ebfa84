"""A driver in a process of its own, to be killed. `python -m noded.drivers.conformance.host` is for that alone."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from noded.drivers.conformance.bench import Bench
from noded.drivers.contract import Context, Driver
from nodestore.processes import child_processes
from nodestore.schema.models import Spec
from nodestore.support.logs import one_line

APPLIED = "applied"


async def start(bench: Bench) -> child_processes.Child | None:
    """A process that applies the first spec, says APPLIED (or why not) and waits; None when that cannot be."""
    name = _import_path(bench.factory)
    if name is None:
        return None
    module, attribute = name
    order = json.dumps([module, attribute, str(bench.work_dir), bench.first.model_dump(mode="json")])
    return await child_processes.spawn(
        [sys.executable, "-m", __name__, order],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))},
        stdout=child_processes.PIPE,
        stderr=child_processes.PIPE,
        die_with_parent=True,
    )


async def read_answer(child: child_processes.Child, timeout_s: float) -> str:
    """What it says in the end: APPLIED, or why not. What the driver prints comes before that."""
    assert child.stdout is not None
    said = ""
    try:
        async with asyncio.timeout(timeout_s):
            async for line in child.stdout:
                said = line.decode("utf-8", "replace").strip()
                if said == APPLIED:
                    break
    except TimeoutError:
        return f"it did not end within {timeout_s:g} s"
    return said or "it said nothing"


def _import_path(factory: Any) -> tuple[str, str] | None:
    module, attribute = getattr(factory, "__module__", None), getattr(factory, "__qualname__", None)
    found = sys.modules.get(module or "")
    for part in (attribute or "").split("."):
        found = getattr(found, part, None)
    return (str(module), str(attribute)) if found is factory and module != "__main__" else None


async def _hold(order: str) -> None:
    module, attribute, work_dir, spec = json.loads(order)
    factory: Any = importlib.import_module(module)
    for part in attribute.split("."):
        factory = getattr(factory, part)
    async with asyncio.TaskGroup() as tasks:
        driver: Driver = factory(Context("n1", "conformance", Path(work_dir), "killed", lambda: None, tasks))
        await driver.apply(Spec.model_validate(spec), None)
        _print_line(APPLIED)
        await asyncio.Event().wait()  # to be killed


def _print_line(text: str) -> None:
    sys.stdout.write(f"{one_line(text)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    child_processes.utf8_stdio()
    try:
        asyncio.run(_hold(sys.argv[1]))
    except BaseExceptionGroup as errors:  # it is the other process that reports it
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        _print_line(f"{type(first).__name__}: {first}")
    except ImportError as missing:
        _print_line(f"{missing}")
