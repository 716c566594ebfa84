"""`nodectl host uninstall`: takes from this PC what `host init` or `host join` has put there."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from hostd.pc.definitions import ETCD, HOSTD, MASTERD, NODED
from hostd.pc.host_file import load_host_file
from hostd.pc.layout import Layout
from hostd.pc.managers import manager_of
from hostd.setup.steps import ReportLine
from nodestore.errors import NodectlError


async def uninstall(layout: Layout, report: ReportLine, *, purge: bool) -> bool:
    """Stop and remove the services, the certificates and the identity of this PC; purge: also data and logs.

    Returns whether there was anything. The identity goes last, so an interrupted run is found by the next one.
    """
    host = load_host_file(layout.host_file)
    if host is not None:
        manager = manager_of(host.manager, layout)
        for service in (HOSTD, NODED, MASTERD, ETCD):
            await manager.remove(service)
        report("stopped and removed the services")
    paths = [layout.etc / "tls", layout.pki, layout.client_config, layout.endpoints, layout.services, layout.hostd]
    paths += [layout.var, layout.log] if purge else []
    found = host is not None or any(path.exists() for path in paths)
    for path in (*paths, layout.host_file):
        _remove(path)
    for path in (layout.etc, layout.var, layout.log):
        with contextlib.suppress(OSError):  # something else is in it
            path.rmdir()
    if found:
        report(f"removed the keys, certificates and settings below {layout.etc}")
        report(
            f"removed the data below {layout.var}" if purge else f"kept the data below {layout.var}: --purge removes it"
        )
    return found


def _remove(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise NodectlError(f"{error.filename or path} cannot be removed: {error.strerror or error}") from None
