"""masterd's settings, from the command line and the environment."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from masterd.housekeeping import Retention
from masterd.leader import LeaderSettings
from masterd.master import MasterSettings
from nodestore import options
from nodestore.errors import Invalid, NodectlError
from nodestore.etcd import EtcdSettings
from nodestore.keys import check_name


@dataclass(frozen=True)
class Settings:
    """Everything masterd is told."""

    cluster: str
    master: str
    host: str
    etcd: EtcdSettings
    listen: tuple[str, int]
    advertise: str
    priority: int
    application: str
    log_level: str
    role: MasterSettings


def parse(arguments: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the command line; what is wrong ends the program with one line and exit code 2."""
    parser = _parser(environ)
    chosen = parser.parse_args(arguments)
    try:
        return _settings(chosen)
    except NodectlError as error:
        parser.error(str(error))


def _parser(environ: Mapping[str, str] | None) -> options.Parser:
    parser = options.Parser(
        "masterd", "One of the PCs that may be master: leads, or stands by with all state.", environ
    )
    parser.option("id", _master, meta="NAME", text="this master's name, as in the configuration")
    options.add_common(parser)
    parser.option("listen", _address, default="127.0.0.1:8401", meta="HOST:PORT", text="where to serve the HTTP API")
    parser.option("advertise", str, default="", meta="URL", text="where others reach it (default: from --listen)")
    parser.option("host", str, default="", meta="NAME", text="this PC's name (default: its host name)")
    parser.option("priority", options.whole(0, 100), default="0", meta="0-100", text="higher ones take over first")
    parser.option(
        "app", str, default="wall", meta="NAME", text="the application: an entry point of nodectl.apps, or module:Class"
    )
    parser.option(
        "max-txn-ops", options.whole(16, 100_000), default="128", meta="N",
        text="etcd's --max-txn-ops, the least of all members (default: etcd's own, %(default)s)",
    )  # fmt: skip
    parser.option(
        "max-request-bytes", options.whole(256 << 10, 64 << 20), default="1500000", meta="BYTES",
        text="etcd's --max-request-bytes, the least of all members (default: etcd's own, %(default)s)",
    )  # fmt: skip
    parser.option(
        "snapshot-every", options.whole(10, 1_000_000), default="5000", meta="COMMANDS",
        text="write a snapshot after so many commands (default: %(default)s)",
    )  # fmt: skip
    return parser


def _settings(chosen: argparse.Namespace) -> Settings:
    host, port = chosen.listen
    advertise = chosen.advertise or f"http://{_reachable(host)}:{port}"
    if not advertise.startswith(("http://", "https://")):
        raise Invalid(f"--advertise: {advertise!r} is not a URL such as http://10.0.0.1:8401")
    leader = LeaderSettings(
        max_txn_ops=chosen.max_txn_ops,
        request_bytes_max=chosen.max_request_bytes,
        retention=Retention(snapshot_every_commands=chosen.snapshot_every),
    )
    return Settings(
        cluster=chosen.cluster,
        master=chosen.id,
        host=chosen.host or socket.gethostname(),
        etcd=options.etcd_settings(chosen),
        listen=(host, port),
        advertise=advertise.rstrip("/"),
        priority=chosen.priority,
        application=chosen.app,
        log_level=chosen.log_level,
        role=MasterSettings(lease_ttl_s=chosen.lease_ttl, leader=leader),
    )


def _reachable(host: str) -> str:
    return socket.gethostname() if host in ("0.0.0.0", "::", "") else host


def _master(text: str) -> str:
    return check_name("master", text)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host, int(port)
