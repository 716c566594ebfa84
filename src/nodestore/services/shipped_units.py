"""The service files of an installation by hand. `python -m nodestore.services.shipped_units DIRECTORY` writes them.

DIRECTORY: a clone of this project. `make services` runs it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from nodestore.services.definitions import SERVICES
from nodestore.services.systemd_unit import unit_text

_GENERATED = "Made by `make services`: do not edit it, add a drop-in (systemctl edit {name})."
_ETCD = """One etcd member as a systemd service. Install:
  useradd --system --home-dir /var/lib/etcd --shell /usr/sbin/nologin etcd
  nodectl etcd config --name pc1 --member pc1=192.168.10.11 ... --file /etc/etcd/etcd.yaml        (see README.md)
  cp nodectl-etcd.service /etc/systemd/system/ && systemctl enable --now nodectl-etcd
GOMEMLIMIT and GOGC: 150-180 MB instead of 650-750 after a burst of writes, on a PC with 2 GB."""
_MASTERD = """masterd as a systemd service: on each PC that may be master. Install: docs/services.md.
/etc/nodectl/masterd.env holds its options; --some-name is NODECTL_SOME_NAME. For example:
  NODECTL_ID=pc1
  NODECTL_CLUSTER=wall
  NODECTL_ENDPOINTS=192.168.10.11:2379,192.168.10.12:2379,192.168.10.13:2379
  NODECTL_CA=/etc/nodectl/tls/ca.crt
  NODECTL_CERT=/etc/nodectl/tls/pc1.crt
  NODECTL_KEY=/etc/nodectl/tls/pc1.key
  NODECTL_LISTEN=192.168.10.11:8401
  NODECTL_TLS_CA=/etc/nodectl/tls/ca.crt
  NODECTL_TLS_CERT=/etc/nodectl/tls/pc1.crt
  NODECTL_TLS_KEY=/etc/nodectl/tls/pc1.key
  NODECTL_TLS_CRL=/etc/nodectl/tls/ca.crl
  NODECTL_MAINTENANCE_CERT=/etc/nodectl/tls-maintenance/pc1.crt
  NODECTL_MAINTENANCE_KEY=/etc/nodectl/tls-maintenance/pc1.key
  NODECTL_MAX_TXN_OPS=4096
  NODECTL_MAX_REQUEST_BYTES=8388608
A stop takes a leader 4 s at most to hand over, then a few more to resign if etcd does not answer."""
_NODED = """noded as a systemd service: on each PC that runs the application. Install: docs/services.md.
/etc/nodectl/noded.env holds its options; --some-name is NODECTL_SOME_NAME. For example:
  NODECTL_NODE=pc1
  NODECTL_CLUSTER=wall
  NODECTL_ENDPOINTS=192.168.10.11:2379,192.168.10.12:2379,192.168.10.13:2379
  NODECTL_WORK_DIR=/var/lib/nodectl/noded
  NODECTL_CA=/etc/nodectl/tls-noded/ca.crt
  NODECTL_CERT=/etc/nodectl/tls-noded/pc1.crt
  NODECTL_KEY=/etc/nodectl/tls-noded/pc1.key
  NODECTL_CRL=/etc/nodectl/tls-noded/ca.crl
The application runs as the same user, and inherits what is set here: nice, limits, rights. It may raise LimitNOFILE=
to the second number. At a stop it gets grace_s (5 s). With a longer grace_s: TimeoutStopSec= of that, and 15 s more.
Exit code 4: another noded has this node now. It is started again all the same, because that one may go."""

HEADERS: Mapping[str, str] = MappingProxyType(
    {"etcd/nodectl-etcd.service": _ETCD, "etc/nodectl-masterd.service": _MASTERD, "etc/nodectl-noded.service": _NODED}
)
"""The comment at the head of each file, by its path in a clone of this project."""


def shipped_units() -> dict[str, str]:
    """The text of each file, by its path in a clone of this project."""
    return {path: _text(Path(path).stem, header) for path, header in HEADERS.items()}


def _text(name: str, header: str) -> str:
    return unit_text(SERVICES[name], header=f"{header}\n{_GENERATED.format(name=name)}")


def main(arguments: list[str]) -> int:
    """Write the files into the clone that the only argument names; return the exit code."""
    if len(arguments) != 1 or not Path(arguments[0], "etcd").is_dir():
        sys.stderr.write("usage: python -m nodestore.services.shipped_units DIRECTORY (a clone of nodectl)\n")
        return 2
    for path, text in shipped_units().items():
        Path(arguments[0], path).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
