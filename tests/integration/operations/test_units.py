"""The unit files under a real systemd: a PC that boots alone, without quorum or network, runs what it can."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from noded.reconcile.last_applied import LastApplied
from nodestore.schema.models import Desired
from tests.faults.hosts.lan.systemd_pc import SystemdPc
from tests.support.etcd_cluster import find_etcd
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[3]
UNITS = {
    "nodectl-etcd": ROOT / "etcd" / "nodectl-etcd.service",
    "nodectl-masterd": ROOT / "etc" / "nodectl-masterd.service",
    "nodectl-noded": ROOT / "etc" / "nodectl-noded.service",
}
PATIENCE_S = 60.0
# The Python and the etcd of the tests may be where only root can read, so the restrictions of the units are lifted.
LIFTED = b"[Service]\nUser=root\nProtectHome=no\nProtectSystem=no\n"
ENDPOINTS = "127.0.0.1:2379,127.0.0.2:2379,127.0.0.3:2379"
NEVER_ONLINE = b"""[Unit]
Before=network-online.target
DefaultDependencies=no
[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/bin/sleep infinity
"""
COMMON = f"NODECTL_CLUSTER=wall\nNODECTL_ENDPOINTS={ENDPOINTS}\n"
NODED = f"{COMMON}NODECTL_NODE=pc1\nNODECTL_WORK_DIR=/var/lib/nodectl/noded\n"
MASTERD = f"{COMMON}NODECTL_ID=pc1\n"
ETCD = """name: pc1
data-dir: /var/lib/etcd/data
listen-client-urls: http://127.0.0.1:2379
advertise-client-urls: http://127.0.0.1:2379
listen-peer-urls: http://127.0.0.1:2380
initial-advertise-peer-urls: http://127.0.0.1:2380
initial-cluster: pc1=http://127.0.0.1:2380,pc2=http://127.0.0.2:2380,pc3=http://127.0.0.3:2380
"""


def applied_before(directory: Path) -> bytes:
    """What noded keeps of the desired state that it applied before the power failed."""
    settings = {"argv": ["/bin/sh", "-c", "touch /run/application-runs; exec sleep 3600"]}
    desired = Desired.model_validate(
        {"epoch": 1, "term": 5, "generation": 7, "spec": {"driver": "process", "settings": settings, "document": {}}}
    )
    LastApplied(directory).save(desired)
    return (directory / ".noded" / "applied.json").read_bytes()


def booted(directory: Path, *, online: bool) -> SystemdPc:
    """A PC whose two fellow members are down. `online`: whether its network comes up."""
    files = {f"/etc/systemd/system/{name}.service": unit.read_bytes() for name, unit in UNITS.items()}
    files |= {f"/etc/systemd/system/{name}.service.d/lifted.conf": LIFTED for name in UNITS}
    files |= {
        "/etc/nodectl/noded.env": NODED.encode(),
        "/etc/nodectl/masterd.env": MASTERD.encode(),
        "/etc/etcd/etcd.yaml": ETCD.encode(),
        "/var/lib/nodectl/noded/.noded/applied.json": applied_before(directory / "before"),
        "/etc/systemd/system/never-online.service": NEVER_ONLINE,
    }
    wanted = "/etc/systemd/system/multi-user.target.wants"
    links = {f"{wanted}/{name}.service": f"/etc/systemd/system/{name}.service" for name in UNITS}
    links |= {"/opt/nodectl": sys.prefix, "/usr/local/bin/etcd": str(find_etcd())}
    if not online:
        links["/etc/systemd/system/network-online.target.wants/never-online.service"] = "../never-online.service"
    return SystemdPc(directory, files, links)


@pytest.mark.nightly
async def test_without_a_quorum_everything_starts_and_the_application_runs(tmp_path: Path) -> None:
    """A unit that waited for etcd to be ready would wait until another PC is switched on."""
    with booted(tmp_path, online=True) as pc:
        for unit in UNITS:
            await eventually(partial(pc.is_active, unit), f"{unit} is active", timeout_s=PATIENCE_S)
        await eventually(lambda: _application_runs(pc), "the application runs", timeout_s=PATIENCE_S)
        assert "No jobs running" in pc.run("systemctl list-jobs")


@pytest.mark.nightly
async def test_without_a_network_the_application_runs(tmp_path: Path) -> None:
    """The cable is pulled, or the switch is off: what waits for the network waits, noded does not."""
    with booted(tmp_path, online=False) as pc:
        await eventually(lambda: _application_runs(pc), "the application runs", timeout_s=PATIENCE_S)
        assert pc.is_active("nodectl-noded")
        assert not pc.is_active("nodectl-masterd")


@pytest.mark.nightly
async def test_a_reload_makes_noded_read_its_files_again(tmp_path: Path) -> None:
    with booted(tmp_path, online=False) as pc:
        await eventually(lambda: _application_runs(pc), "the application runs", timeout_s=PATIENCE_S)
        pc.run("systemctl reload nodectl-noded")
        await eventually(
            lambda: "SIGHUP: reads certificates" in pc.run("journalctl -u nodectl-noded --no-pager"), "it is logged",
            timeout_s=PATIENCE_S,
        )  # fmt: skip
        assert pc.is_active("nodectl-noded")


def _application_runs(pc: SystemdPc) -> bool:
    return pc.run("test -e /run/application-runs && echo yes") == "yes\n" and pc.is_active("nodectl-noded")


@pytest.mark.skipif(sys.platform != "linux", reason="systemd")
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    """An unknown setting would be ignored, with a line in the journal that nobody reads."""
    try:
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *map(str, UNITS.values())],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("there is no systemd-analyze")
    assert "Unknown" not in done.stderr
    assert "Failed to parse" not in done.stderr
