"""The installed programs at an etcd with access control, each with its own certificate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from nodectl import Client
from nodestore.schema.keys import Keys
from nodestore.schema.store_rights import StoreUser
from tests.support.access.closed_etcd import MAINTENANCE, ClosedEtcd
from tests.support.cli import CommandOutput, Nodectl
from tests.support.etcd_cluster import free_ports

OPERATOR = StoreUser("operator", "jo")
_ROOT = Path(__file__).parents[3]


class Programs:
    """Masters and nodes that reach etcd with certificates of their own."""

    def __init__(self, etcd: ClosedEtcd, keys: Keys, directory: Path) -> None:
        self.etcd, self.keys, self.directory = etcd, keys, directory
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start_master(self, name: str, user: str = "", *options: str) -> None:
        listen = f"--listen=127.0.0.1:{free_ports(1)[0]}"
        self._start(
            name, "masterd", user or f"masterd:{name}", f"--id={name}", f"--host={name}", listen, "--timing=slow",
            *options,
        )  # fmt: skip

    def start_node(self, name: str) -> None:
        self._start(
            name, "noded", f"noded:{name}", f"--node={name}", f"--work-dir={self.directory / name}", "--tick=500ms"
        )

    def _start(self, name: str, program: str, user: str, *options: str) -> None:
        argv = [
            sys.executable, "-m", program, *options, f"--cluster={self.keys.cluster}",
            f"--endpoints={','.join(self.etcd.cluster.endpoints)}", *self.etcd.options(user),
        ]  # fmt: skip
        with (self.directory / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(argv, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def client(self, user: StoreUser = OPERATOR) -> Client:
        own = self.etcd.settings(user)
        return Client(own.endpoints, cluster=self.keys.cluster, ca=own.ca, cert=own.cert, key=own.key)

    async def nodectl(self, *arguments: str, user: StoreUser = MAINTENANCE) -> CommandOutput:
        own = self.etcd.options(user)
        return await Nodectl(self.etcd.cluster.endpoints, self.keys.cluster)(*own, *arguments)

    def stop(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text('utf-8')}" for path in sorted(self.directory.glob("*.log")))
