"""How an etcd member is started: its command line and environment, for tests and the development cluster.

Pure. Operators' members take the same settings from the file that `nodectl etcd config` generates from this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

MEMORY_ENVIRONMENT = {"GOMEMLIMIT": "120MiB", "GOGC": "50"}
"""Keeps a member at 150-180 MB where it would take 650-750 after a write storm, for a tenth of the write rate."""

DEFAULT_SETTINGS: Mapping[str, str] = {
    # A change of etcd's leader takes 0.7-0.9 s instead of 1.3-1.9; below this a busy 2-core PC raises false alarms.
    "heartbeat-interval": "50",
    "election-timeout": "500",
    # A batch's views in one transaction: 128 operations are etcd's default.
    "max-txn-ops": "4096",
    "max-request-bytes": str(8 << 20),
    # The default of 3.5 keeps 100,000 entries in memory: wrong for a PC with 2 GB.
    "snapshot-count": "5000",
    # By time: "revision" compacts only each 5 minutes, and what a write storm leaves in 5 minutes is more than the
    # quota. A watcher that was away for longer than this lists anew, which is cheap here.
    "auto-compaction-mode": "periodic",
    "auto-compaction-retention": "1m",
    "quota-backend-bytes": str(256 << 20),
    "logger": "zap",
    "log-outputs": "stderr",
    "log-level": "warn",
}
"""What every member has in common, in the names of etcd's flags and configuration file."""


@dataclass(frozen=True)
class MemberConfig:
    """One member. URLs are whole ("http://127.0.0.1:2379"); `initial_cluster` is name to peer URL, itself included.

    `existing`: it joins a cluster that runs (after `etcdctl member add`). `advertised_client_url` and
    `advertised_peer_url`: where clients and the other members find it, if not at `client_url` and `peer_url`, which may
    be several URLs with commas. `settings` replaces or adds to SETTINGS.
    """

    name: str
    data_dir: PurePath
    client_url: str
    peer_url: str
    initial_cluster: Mapping[str, str]
    cluster_token: str = "nodectl"  # no secret: keeps members of different clusters apart
    existing: bool = False
    advertised_client_url: str | None = None
    advertised_peer_url: str | None = None
    settings: Mapping[str, str] | None = None

    def flags(self) -> dict[str, str]:
        """All settings by the name of their flag."""
        return {
            "name": self.name,
            "data-dir": str(self.data_dir),
            "listen-client-urls": self.client_url,
            "advertise-client-urls": self.advertised_client_url or self.client_url,
            "listen-peer-urls": self.peer_url,
            "initial-advertise-peer-urls": self.advertised_peer_url or self.peer_url,
            "initial-cluster": ",".join(f"{name}={url}" for name, url in self.initial_cluster.items()),
            "initial-cluster-token": self.cluster_token,
            "initial-cluster-state": "existing" if self.existing else "new",
            **DEFAULT_SETTINGS,
            **(self.settings or {}),
        }

    def command(self, server: Path) -> list[str]:
        """The command line that runs this member with the etcd at `server`."""
        return [str(server), *(f"--{name}={value}" for name, value in self.flags().items())]


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """`base` for a member: with the memory limits unless it has its own, without settings that etcd would take up."""
    kept = {name: value for name, value in base.items() if not name.startswith("ETCD_")}
    return {**MEMORY_ENVIRONMENT, **kept}
