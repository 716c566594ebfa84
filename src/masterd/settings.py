"""masterd's settings, from the command line and the environment."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from masterd.committer import LeaderSettings
from masterd.housekeeping import Retention
from masterd.master import MasterSettings
from masterd.space import SpaceSettings
from masterd.suspicion import PROFILES, Timing
from nodestore import options
from nodestore.errors import Invalid, NodectlError
from nodestore.etcd import EtcdSettings
from nodestore.etcd_server import SETTINGS as SHIPPED
from nodestore.keys import check_name

_TIMES = {
    "beat": "from one heartbeat of the leader to the next",
    "missed": "challenge the leader when nothing was heard for so long",
    "silence": "take over when nothing was heard for so long and the challenge was not answered",
    "answer": "for so long at least a challenge must have been unanswered",
    "stuck": "challenge a leader that says it could not commit for so long",
    "stagger": "between the attempts of standbys, by rank",
}


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
    maintenance: EtcdSettings
    """Who we are where etcd wants root."""


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
        "etcd-quota-bytes", options.whole(1 << 20, 1 << 40), default=SHIPPED["quota-backend-bytes"], meta="BYTES",
        text="etcd's --quota-backend-bytes, the least of all members: room is made before it is reached "
        "(default: %(default)s, as in our files for etcd; etcd's own is 2147483648)",
    )  # fmt: skip
    options.add_maintenance(parser)
    parser.option(
        "snapshot-every", options.whole(10, 1_000_000), default="5000", meta="COMMANDS",
        text="write a snapshot after so many commands (default: %(default)s)",
    )  # fmt: skip
    parser.option(
        "local-member", str, default="auto", meta="HOST:PORT|none",
        text="the etcd member on this PC (default: the first of --endpoints, if it has the host of --advertise)",
    )  # fmt: skip
    parser.option(
        "timing", _profile, default="lan", meta="lan|slow",
        text="how quickly a silent leader is replaced: lan (0.3 s), or slow (2 s) for PCs that are often overloaded",
    )  # fmt: skip
    for name, text in _TIMES.items():
        parser.option(
            name, options.seconds(0.01, 60.0), default="", meta="SECONDS", text=f"{text} (default: as --timing says)"
        )
    parser.option(
        "handler-timeout", options.seconds(0.05, 60.0), default="2", meta="SECONDS",
        text="give up a command of the application that takes longer (default: %(default)s)",
    )  # fmt: skip
    parser.flag("allow-drills", text="let requests kill or freeze this masterd while it leads (nodectl drill)")
    return parser


def _settings(chosen: argparse.Namespace) -> Settings:
    host, port = chosen.listen
    advertise = chosen.advertise or f"http://{_reachable(host)}:{port}"
    if not advertise.startswith(("http://", "https://")):
        raise Invalid(f"--advertise: {advertise!r} is not a URL such as http://10.0.0.1:8401")
    etcd = options.etcd_settings(chosen)
    space = SpaceSettings(quota_bytes=chosen.etcd_quota_bytes)
    leader = LeaderSettings(
        max_txn_ops=chosen.max_txn_ops,
        request_bytes_max=chosen.max_request_bytes,
        handler_timeout_s=chosen.handler_timeout,
        retention=Retention(snapshot_every_commands=chosen.snapshot_every),
    )
    return Settings(
        cluster=chosen.cluster,
        master=chosen.id,
        host=chosen.host or socket.gethostname(),
        etcd=etcd,
        listen=(host, port),
        advertise=advertise.rstrip("/"),
        priority=chosen.priority,
        application=chosen.app,
        log_level=chosen.log_level,
        role=MasterSettings(
            lease_ttl_s=chosen.lease_ttl,
            timing=_timing(chosen),
            member=_member(chosen, advertise),
            leader=leader,
            space=space,
            allow_drills=chosen.allow_drills,
        ),
        maintenance=options.maintenance_settings(chosen, etcd),
    )


def _member(chosen: argparse.Namespace, advertise: str) -> str | None:
    """The etcd member on this PC."""
    if chosen.local_member == "none":
        return None
    if chosen.local_member != "auto":
        if chosen.local_member not in chosen.endpoints:
            raise Invalid(
                f"--local-member: {chosen.local_member} is not among --endpoints {','.join(chosen.endpoints)}"
            )
        return str(chosen.local_member)
    first = str(chosen.endpoints[0])
    return first if first.rsplit(":", 1)[0] == (urlsplit(advertise).hostname or "") else None


def _timing(chosen: argparse.Namespace) -> Timing:
    """The profile, and what was set beside it."""
    own = {f"{name.replace('-', '_')}_s": getattr(chosen, name.replace("-", "_")) for name in _TIMES}
    timing = replace(PROFILES[chosen.timing], **{field: value for field, value in own.items() if value is not None})
    if not timing.beat_s < timing.missed_s < timing.silence_s:
        raise Invalid(
            f"--beat {timing.beat_s:g} must be less than --missed {timing.missed_s:g}, "
            f"and that less than --silence {timing.silence_s:g}"
        )
    return timing


def _profile(text: str) -> str:
    if text not in PROFILES:
        raise ValueError(f"{text!r} is not one of: {', '.join(PROFILES)}")
    return text


def _reachable(host: str) -> str:
    return socket.gethostname() if host in ("0.0.0.0", "::", "") else host


def _master(text: str) -> str:
    return check_name("master", text)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host, int(port)
