"""Runs a driver in a child process that `checks.check_kill` kills. Nothing else uses this module."""

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
    """Start a process that applies the first spec, prints APPLIED or the error, and waits.

    Returns None if the driver cannot be imported by name.
    """
    path = _import_path(bench.factory)
    if path is None:
        return None
    module, attribute = path
    request = json.dumps([module, attribute, str(bench.work_dir), bench.first.model_dump(mode="json")])
    return await child_processes.spawn(
        [sys.executable, "-m", __name__, request],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))},
        stdout=child_processes.PIPE,
        stderr=child_processes.PIPE,
        die_with_parent=True,
    )


async def read_answer(child: child_processes.Child, timeout_s: float) -> str:
    """Return the child's last line: APPLIED or the error. The driver may print other lines before."""
    assert child.stdout is not None
    last_line = ""
    try:
        async with asyncio.timeout(timeout_s):
            async for line in child.stdout:
                last_line = line.decode("utf-8", "replace").strip()
                if last_line == APPLIED:
                    break
    except TimeoutError:
        return f"it did not end within {timeout_s:g} s"
    return last_line or "the process printed nothing"


def _import_path(factory: Any) -> tuple[str, str] | None:
    module, attribute = getattr(factory, "__module__", None), getattr(factory, "__qualname__", None)
    imported = sys.modules.get(module or "")
    for part in (attribute or "").split("."):
        imported = getattr(imported, part, None)
    return (str(module), str(attribute)) if imported is factory and module != "__main__" else None


async def _apply_and_wait(request: str) -> None:
    module, attribute, work_dir, spec = json.loads(request)
    factory: Any = importlib.import_module(module)
    for part in attribute.split("."):
        factory = getattr(factory, part)
    async with asyncio.TaskGroup() as tasks:
        driver: Driver = factory(Context("n1", "conformance", Path(work_dir), "killed", lambda: None, tasks))
        await driver.apply(Spec.model_validate(spec), None)
        _print_line(APPLIED)
        await asyncio.Event().wait()  # until it is killed


def _print_line(text: str) -> None:
    sys.stdout.write(f"{one_line(text)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    child_processes.utf8_stdio()
    try:
        asyncio.run(_apply_and_wait(sys.argv[1]))
    except BaseExceptionGroup as errors:  # the parent process reports it
        first: BaseException = errors
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        _print_line(f"{type(first).__name__}: {first}")
    except ImportError as missing:
        _print_line(f"{missing}")
