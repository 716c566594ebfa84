"""An installation by hand on PCs of the lab, as etcd/README.md and docs/services.md describe it, without TLS."""

from __future__ import annotations

from collections.abc import Collection

from nodestore.services.shipped_units import shipped_units
from tests.lab.pc import Pc

SERVICES = ("nodectl-etcd", "nodectl-masterd", "nodectl-noded")
_USERS = {"etcd": "/var/lib/etcd", "nodectl-masterd": "/var/lib/nodectl", "nodectl-noded": "/var/lib/nodectl"}


def install(pc: Pc, members: Collection[int]) -> None:
    """Install etcd, masterd and noded on a PC that is on. Nothing is started. `members`: the numbers of etcd's PCs."""
    for user, home in _USERS.items():
        pc.check(f"useradd --system --home-dir {home} --shell /usr/sbin/nologin {user}")
    others = [number for number in members if number != pc.number]
    endpoints = ",".join(f"10.77.0.{number}:2379" for number in [pc.number, *others])
    common = f"NODECTL_CLUSTER=wall\nNODECTL_ENDPOINTS={endpoints}\n"
    limits = "NODECTL_MAX_TXN_OPS=4096\nNODECTL_MAX_REQUEST_BYTES=8388608\n"
    masterd = f"{common}NODECTL_ID={pc.name}\nNODECTL_LISTEN={pc.address}:8401\nNODECTL_INSECURE=1\n{limits}"
    pc.put("/etc/nodectl/masterd.env", masterd.encode())
    noded = f"{common}NODECTL_NODE={pc.name}\nNODECTL_WORK_DIR=/var/lib/nodectl/noded\n"
    pc.put("/etc/nodectl/noded.env", noded.encode())
    listed = " ".join(f"--member pc{number}=10.77.0.{number}" for number in members)
    plan = f"--name {pc.name} --cluster-token wall --file /etc/etcd/etcd.yaml {listed}"
    pc.check(f"mkdir -p /etc/etcd && /opt/nodectl/bin/nodectl etcd config {plan}")
    for path, text in shipped_units().items():
        pc.put(f"/etc/systemd/system/{path.rpartition('/')[2]}", text.encode())
    pc.check("systemctl daemon-reload")
    pc.check(f"systemctl enable {' '.join(SERVICES)}")


def start(pc: Pc) -> None:
    pc.check(f"systemctl start {' '.join(SERVICES)}")
