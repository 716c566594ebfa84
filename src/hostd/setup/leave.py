"""`nodectl host leave`: has the cluster forget this PC, and then takes from the PC what joining has put there."""

from __future__ import annotations

import ssl
import time

from hostd.pc.host_file import HostFile, require_host_file
from hostd.pc.layout import Layout
from hostd.setup.steps import ReportLine
from hostd.setup.uninstall import uninstall
from hostd.signing.client import SignerClient
from nodestore.errors import Conflict, Denied, NodectlError, TimedOut, Unavailable

TIMEOUT_S = 600.0


async def leave(layout: Layout, report: ReportLine, *, purge: bool, timeout_s: float = TIMEOUT_S) -> None:
    """Leave the cluster. Run again after an interruption, it goes on."""
    host = require_host_file(layout.host_file)
    if layout.pki.is_dir():
        raise Conflict(
            f"{host.host} has the keys of the authorities: use `nodectl host remove` once another PC has them"
        )
    await _be_forgotten(layout, host, report, timeout_s)
    report(f"the cluster {host.cluster} has forgotten {host.host}")
    await uninstall(layout, report, purge=purge)


async def _be_forgotten(layout: Layout, host: HostFile, report: ReportLine, timeout_s: float) -> None:
    tls = layout.tls_files("hostd", host.host).context()
    deadline, asked = time.monotonic() + timeout_s, False
    while time.monotonic() < deadline:
        try:
            if await _ask(host, tls):
                return
        except Denied:
            if asked:  # its certificate was revoked in the meantime, which is the end of the removal
                return
            raise
        asked = True
        report("the member of etcd on this PC is being taken out")
    raise TimedOut(f"{host.host} has not left within {timeout_s:g} s: run this again, it goes on")


async def _ask(host: HostFile, tls: ssl.SSLContext) -> bool:
    problem: NodectlError = Unavailable("this PC knows no signer")
    for signer in host.signers:
        try:
            return await SignerClient(signer).leave(tls)
        except Unavailable as error:
            problem = error
    raise problem
