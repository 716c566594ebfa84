"""Chooses the manager of services of this PC."""

from __future__ import annotations

from hostd.pc.host_file import ManagerKind
from hostd.pc.layout import Layout
from nodestore.errors import Invalid
from nodestore.services.manager import ServiceManager
from nodestore.services.processes import ProcessServices
from nodestore.services.systemd import SystemdServices


def manager_of(kind: ManagerKind, layout: Layout) -> ServiceManager:
    """The manager of this kind. Raises Invalid if this release has none."""
    if kind == "processes":
        return ProcessServices(layout.services)
    if kind == "systemd":
        return SystemdServices()
    raise Invalid(f"services by {kind} are not available in this release: use --services processes")
