"""Chooses the manager of services of this PC."""

from __future__ import annotations

from hostd.pc.host_file import ManagerKind
from hostd.pc.layout import Layout
from nodestore.errors import Invalid
from nodestore.services.manager import ServiceManager
from nodestore.services.processes import ProcessServices


def manager_of(kind: ManagerKind, layout: Layout) -> ServiceManager:
    """The manager of this kind. Raises Invalid if this release has none."""
    if kind == "processes":
        return ProcessServices(layout.services)
    raise Invalid(f"services by {kind} are not available in this release: use --services processes")
