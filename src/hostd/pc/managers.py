"""Chooses the manager of services of this PC."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from hostd.pc.host_file import ManagerKind
from hostd.pc.layout import Layout
from nodestore.errors import Invalid
from nodestore.services.manager import ServiceManager
from nodestore.services.nssm import NssmServices
from nodestore.services.processes import ProcessServices
from nodestore.services.systemd import SystemdServices


def manager_of(kind: ManagerKind, layout: Layout) -> ServiceManager:
    """The manager of this kind. Raises Invalid if this PC lacks what it needs."""
    if kind == "processes":
        return ProcessServices(layout.services)
    if kind == "systemd":
        return SystemdServices()
    return NssmServices(find_nssm(layout.root))


def find_nssm(root: Path) -> Path:
    """nssm.exe below `root`, beside the Python of this process, or in PATH. Raises Invalid if there is none."""
    beside = (root / "nssm.exe", Path(sys.executable).with_name("nssm.exe"))
    found = next((path for path in beside if path.is_file()), None) or shutil.which("nssm")
    if found is None:
        raise Invalid(f"there is no nssm.exe, which runs services on Windows: put it at {beside[0]}")
    return Path(found)
