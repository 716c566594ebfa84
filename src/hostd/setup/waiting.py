"""Waits for what hostd on this PC does, and shows it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from hostd.pc.definitions import HOSTD, Definitions
from hostd.pc.host_file import HostFile
from hostd.pc.layout import Layout
from hostd.pc.managers import manager_of
from hostd.setup.steps import ReportLine
from nodestore.errors import Garbage
from nodestore.schema.models import HostActual, decode
from nodestore.support.backoff import Backoff
from nodestore.support.waiting import wait_until

START_TIMEOUT_S = 90.0


async def start_hostd(layout: Layout, host: HostFile) -> None:
    """Install hostd as a service and start it, or let it go on."""
    manager = manager_of(host.manager, layout)
    with contextlib.suppress(FileNotFoundError):
        if not (await manager.status(HOSTD)).is_running:
            layout.report.unlink()  # of an earlier hostd
    await manager.install(Definitions(layout, host).hostd())
    await manager.start(HOSTD)


async def wait_for_services(layout: Layout, names: Sequence[str], report: ReportLine) -> HostActual:
    """Wait until hostd says that these services run. Raises TimedOut, with what is missing."""
    shown: set[str] = set()

    async def check() -> str | None:
        actual = read_report(layout)
        if actual is None:
            return f"hostd does not report yet: see {layout.log}"
        missing = []
        for name in names:
            found = actual.services.get(name)
            if found is None or found.state != "running":
                missing.append(f"{name} ({found.problem or found.state if found else 'not started yet'})")
            elif name not in shown:
                shown.add(name)
                report(f"{name} runs (pid {found.pid})")
        return f"{', '.join(missing)}; {'; '.join(actual.problems)}".strip("; ") if missing else None

    await wait_until(check, "the services of this PC run", START_TIMEOUT_S, Backoff(0.1, 0.5))
    found = read_report(layout)
    assert found is not None
    return found


def read_report(layout: Layout) -> HostActual | None:
    """What hostd found at its last pass; None if there is no report."""
    with contextlib.suppress(OSError, Garbage):
        return decode(HostActual, layout.report.read_bytes(), str(layout.report))
    return None
