"""The configuration file of nodectl on the first PC. hostd keeps it current, so that it names each member of etcd."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hostd.pc.host_file import HostFile
from hostd.pc.layout import Layout
from nodestore.pki.private_files import write_private

OPERATOR = "admin"
"""Whom the certificate for nodectl on the first PC names. It has the role admin."""


def write_client_config(layout: Layout, host: HostFile, endpoints: Sequence[str]) -> None:
    """Write the file, unless it is so already. endpoints: the members of etcd. Raises NodectlError, OSError."""
    files = layout.tls_files("operator", OPERATOR)
    entry = {
        "endpoints": ",".join(endpoints), "cluster": host.cluster,
        "ca": str(files.ca), "cert": str(files.cert), "key": str(files.key), "crl": str(files.crl),
    }  # fmt: skip
    text = json.dumps({"clusters": {host.cluster: entry}}, indent=1) + "\n"  # JSON is YAML too
    path = layout.client_config
    if not path.exists() or path.read_bytes() != text.encode():
        write_private(path, text.encode())


def is_operator_here(layout: Layout) -> bool:
    """Whether this PC has the certificate for nodectl."""
    return layout.tls("operator").is_dir()
