"""The command line and environment of an etcd member, for tests and the development cluster.

Pure. `nodectl etcd config` generates the configuration files of operators' members from the same settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

MEMORY_ENVIRONMENT = {"GOMEMLIMIT": "200MiB", "GOGC": "50"}
"""Go settings that keep a member at 250 to 310 MB, its database included, where the defaults take 650 to 750 MB after a
write storm. They cost a tenth of the write rate.

GOMEMLIMIT must stay well above the memory that is in use, which is 110 to 125 MB after 6,000 entries of full batches
and of snapshots. With 120MiB Go collected garbage all the time: members used four times as much CPU time, and the rate
of commands fell to a quarter after 20 s.
"""

DEFAULT_SETTINGS: Mapping[str, str] = {
    # An election of etcd takes 0.7-0.9 s with these, 1.3-1.9 s with the defaults. With shorter times, a busy 2-core PC
    # causes needless elections.
    "heartbeat-interval": "50",
    "election-timeout": "500",
    # All views of a batch go into one transaction: etcd's default of 128 operations is too few.
    "max-txn-ops": "4096",
    "max-request-bytes": str(8 << 20),
    # etcd 3.5 keeps up to this many entries in memory, and 5,000 more. Its default of 100,000 is too many for a PC with
    # 2 GB. masterd/term/pacing/log_credit.py relies on this number.
    "snapshot-count": "1000",
    # Compaction by time: mode "revision" compacts every 5 minutes, and a write storm exceeds the quota within that
    # time. A watcher that is disconnected for longer than the retention lists all keys again, which is cheap here.
    "auto-compaction-mode": "periodic",
    "auto-compaction-retention": "30s",
    "quota-backend-bytes": str(256 << 20),
    "logger": "zap",
    "log-outputs": "stderr",
    "log-level": "warn",
}
"""The settings that all members share, by the names of etcd's flags and configuration file."""


@dataclass(frozen=True)
class MemberConfig:
    """The configuration of one member. URLs have a scheme, such as "http://127.0.0.1:2379".

    `client_url` and `peer_url` may be several URLs, separated by commas. `initial_cluster`: peer URL by name, including
    this member. `existing`: the member joins a running cluster, after `etcdctl member add`. `advertised_client_url`
    and `advertised_peer_url`: the URLs that clients and other members use, if different. `settings`: overrides of
    DEFAULT_SETTINGS, and further settings.
    """

    name: str
    data_dir: PurePath
    client_url: str
    peer_url: str
    initial_cluster: Mapping[str, str]
    cluster_token: str = "nodectl"  # noqa: S105 - not a secret: keeps members of different clusters apart
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
    """`base` without the ETCD_ variables, which etcd reads as settings. Adds the memory limits that `base` lacks."""
    kept = {name: value for name, value in base.items() if not name.startswith("ETCD_")}
    return {**MEMORY_ENVIRONMENT, **kept}
