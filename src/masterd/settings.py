"""Settings of masterd, read from the command line and the environment."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from masterd.audit_sinks import SinkSpec, parse_sink
from masterd.election.suspicion import LAN, PROFILES, ElectionTiming
from masterd.term.committer import LeaderSettings
from masterd.term.retention import RetentionSettings
from masterd.upkeep.local_member import LocalMember, find_local_member
from masterd.upkeep.space_plan import SpaceSettings
from masterd.upkeep.store_budget import StoreBudget
from nodestore.cluster.store_identity import MarkFile, MarkMemory
from nodestore.daemon import options
from nodestore.daemon.log_target import LogFileSettings, add_log_file, log_file_settings
from nodestore.errors import Invalid, NodectlError
from nodestore.etcd.member_defaults import DEFAULT_SETTINGS as SHIPPED
from nodestore.etcd.session import EtcdSettings
from nodestore.etcd.types import host_port
from nodestore.schema.keys import check_name
from nodestore.support.tls_files import TlsFiles
from nodestore.support.values import (
    Address,
    duration_between,
    each_of,
    format_duration,
    is_loopback,
    parse_address,
    parse_host_name,
    parse_origin,
    whole_between,
    whole_seconds_between,
)

TIMES = {
    "beat": (0.02, 2.0, "interval between two heartbeats of the leader"),
    "missed": (0.03, 20.0, "challenge the leader after this long without a heartbeat"),
    "silence": (0.05, 30.0, "take over after this long without a heartbeat, if the challenge is unanswered"),
    "answer": (0.02, 10.0, "how long a challenge must stay unanswered in etcd before the standby takes over"),
    "stuck": (0.2, 30.0, "challenge a leader that reports that it could not commit for this long"),
    "connect": (0.1, 20.0, "the first heartbeat of a new leader is due after this long"),
    "stagger": (0.005, 1.0, "delay between the takeover attempts of one standby and the next, by rank"),
}
"""By option: minimum and maximum in seconds, and the help text.

A value below the minimum would make standbys suspect a healthy leader on a calm network. A value above the maximum
would make a failover too slow to be useful.
"""

_SINKS_MAX = 4

FindMember = Callable[[], Awaitable[LocalMember]]


@dataclass(frozen=True, kw_only=True)
class MasterSettings:
    """The settings of masterd's parts: election, terms and upkeep. They are one part of `Settings`."""

    lease_ttl_s: int = 2
    timing: ElectionTiming = LAN
    find_member: FindMember | None = None
    """Function that finds the etcd member on this PC; None after `--local-member none`."""
    leader: LeaderSettings = field(default_factory=LeaderSettings)
    space: SpaceSettings = field(default_factory=SpaceSettings)
    allow_drills: bool = False
    """Whether a request may kill or freeze this leader."""
    audit_file: Path | None = None
    """The file of the audit log; None: it is in memory only."""
    audit_exports: tuple[SinkSpec, ...] = ()
    """The sinks to which this masterd exports commands and the events of its audit log."""
    audit_export_ca: Path | None = None
    """The file of the authority of syslog servers; None: those of the system."""
    require_credentials: bool = False
    """Whether access control is on, whatever the cluster's key says."""
    allowed_hosts: tuple[str, ...] = ()
    """Names of hosts, besides its own, that requests to this masterd may name in their `Host` header."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages, besides its own, that may send requests to this masterd."""
    session_idle_s: int = 2 * 3600
    """A browser session that begins at this masterd ends after so many seconds without a request."""
    session_lasts_s: float = 12 * 3600.0
    """It ends after so many seconds in any case."""
    remember: Callable[[str], MarkMemory] | None = None
    """Returns where the store of a cluster is remembered; None: only in memory."""
    give_up_retry_s: float = 0.2
    """Pause after the first term that could not be served. It doubles with each consecutive failure, up to 30 s."""

    def store_memory(self, cluster: str) -> MarkMemory | None:
        """Where the store of this cluster is remembered over restarts; None: nowhere."""
        return None if self.remember is None else self.remember(cluster)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of one masterd."""

    cluster: str
    master: str
    host: str
    etcd: EtcdSettings
    listen: Address
    advertise: str
    priority: int | None
    application: str
    log_level: str
    log_level_file: Path | None = None
    log_file: LogFileSettings | None = None
    """Where the log goes; None: to stderr."""
    master_settings: MasterSettings
    maintenance: EtcdSettings
    """Endpoints and credentials for maintenance calls, which etcd allows only to root."""
    tls: TlsFiles | None = None
    """The files for the API and for requests to other masterds; None: the API has no TLS."""
    quick_close: bool = True
    """Whether a killed masterd's connections are closed before its memory is freed."""
    plain_listen: Address | None = None
    """Where the API also accepts connections without TLS; None: nowhere, if it has TLS."""

    @property
    def exposure(self) -> str | None:
        """What of the API other PCs can reach without TLS, as a warning; None if nothing."""
        if self.plain_listen is not None and not is_loopback(self.plain_listen.host):
            return f"its API accepts requests without TLS at {self.plain_listen} (--plain-listen)"
        if self.tls is None and not is_loopback(self.listen.host):
            return f"its API accepts requests without TLS at {self.listen} (--insecure)"
        return None


def parse(arguments: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings. An invalid option ends the program with one line on stderr and exit code 2."""
    parser = _parser(environ)
    chosen = parser.parse_args(arguments)
    try:
        return _settings(chosen)
    except NodectlError as error:
        parser.error(str(error))


def _parser(environ: Mapping[str, str] | None) -> options.Parser:
    parser = options.Parser(
        "masterd",
        "The master program: leads the cluster, or follows as a hot standby that holds the state in memory.",
        environ,
    )
    parser.add_option("id", _master, meta="NAME", text="this masterd's name, as in the configuration")
    options.add_common(parser)
    add_log_file(parser)
    parser.add_option("listen", _listen, default="127.0.0.1:8401", meta="HOST:PORT", text="address of the HTTP API")
    _add_tls(parser)
    parser.add_option(
        "advertise", str, default="", meta="URL",
        text="URL at which other programs reach the HTTP API (default: derived from --listen)",
    )  # fmt: skip
    parser.add_option(
        "state-dir", _directory, default="", meta="DIR",
        text="directory in which this masterd remembers which store it served (default: it remembers that in memory "
        "only, and after a restart believes etcd and the other programs)",
    )  # fmt: skip
    parser.add_option("host", str, default="", meta="NAME", text="this PC's name (default: its host name)")
    parser.add_option(
        "priority", whole_between(0, 100), default="", meta="0-100",
        text="standbys of higher priority take over first (default: the priority in the configuration, or 0)",
    )  # fmt: skip
    parser.add_option(
        "app",
        str,
        default="scenes",
        meta="NAME",
        text="the application: an entry point of nodectl.apps, or module:attribute",
    )
    parser.add_option(
        "max-txn-ops", whole_between(16, 100_000), default="128", meta="N",
        text="etcd's --max-txn-ops, the lowest of all members (default: etcd's own default, %(default)s)",
    )  # fmt: skip
    parser.add_option(
        "max-request-bytes", whole_between(256 << 10, 64 << 20), default="1500000", meta="BYTES",
        text="etcd's --max-request-bytes, the lowest of all members (default: %(default)s, a little below etcd's own "
        "default)",
    )  # fmt: skip
    parser.add_option(
        "etcd-quota-bytes", whole_between(1 << 20, 1 << 40), default=SHIPPED["quota-backend-bytes"], meta="BYTES",
        text="etcd's --quota-backend-bytes, the lowest of all members. The leader frees space before it is reached. "
        "etcd's own default is 2147483648 (default: %(default)s, as in nodectl's configuration files for etcd)",
    )  # fmt: skip
    options.add_maintenance(parser)
    parser.add_option(
        "snapshot-every", whole_between(10, 1_000_000), default="5000", meta="COMMANDS",
        text="write a snapshot after this many commands (default: %(default)s)",
    )  # fmt: skip
    parser.add_option(
        "local-member", str, default="auto", meta="HOST:PORT|none",
        text="the etcd member on this PC (default: the endpoint in --endpoints that is an address of this PC)",
    )  # fmt: skip
    parser.add_option(
        "timing", _profile, default="lan", meta="lan|slow",
        text="how fast a silent leader is replaced: lan (0.3 s), or slow (2 s) for PCs that are often overloaded",
    )  # fmt: skip
    for name, (least, most, text) in TIMES.items():
        span = f"{format_duration(least)} to {format_duration(most)}"
        parser.add_option(
            name, duration_between(least, most), default="", meta="TIME",
            text=f"{text} ({span}; default: set by --timing)",
        )  # fmt: skip
    parser.add_option(
        "handler-timeout", duration_between(0.05, 60.0), default="2s", meta="TIME",
        text="fail a command of the application that takes longer than this (default: %(default)s)",
    )  # fmt: skip
    parser.add_option(
        "derive-timeout", duration_between(0.05, 60.0), default="5s", meta="TIME",
        text="leave out a node whose desired state the application does not return within this, at the start of a "
        "term: the node keeps its last order (default: %(default)s)",
    )  # fmt: skip
    parser.add_option(
        "allow-host", each_of(parse_host_name), default="", meta="NAME,...",
        text="further names under which clients reach the HTTP API, such as a proxy's name. Addresses, this PC's name "
        "and the name in --advertise are always allowed",
    )  # fmt: skip
    parser.add_option(
        "allow-origin", each_of(parse_origin), default="", meta="URL,...",
        text="origins of web pages that may send requests to the HTTP API, such as https://wall.example",
    )  # fmt: skip
    parser.add_option(
        "audit-export", each_of(parse_sink), default="", meta="SINK,...",
        text="where this masterd exports all commands and the events of its audit log: file:PATH, syslog: (this PC's), "
        "syslog+udp://HOST:PORT, syslog+tcp://HOST:PORT, syslog+tls://HOST:PORT or eventlog:. Needs --state-dir",
    )  # fmt: skip
    parser.add_option(
        "audit-export-ca", Path, default="", meta="FILE",
        text="file of the certificate authority of syslog+tls servers (default: the authorities of the system)",
    )  # fmt: skip
    parser.add_option(
        "session-idle", whole_seconds_between(60, 7 * 86_400), default="2h", meta="TIME",
        text="a browser session that begins here ends after this long without a request (default: %(default)s)",
    )  # fmt: skip
    parser.add_option(
        "session-lasts", duration_between(60.0, 30 * 86_400.0), default="12h", meta="TIME",
        text="a browser session that begins here ends after this long in any case (default: %(default)s)",
    )  # fmt: skip
    parser.add_flag(
        "require-credentials",
        text="refuse requests without a credential, even if access control of the cluster is off (nodectl auth enable)",
    )
    parser.add_flag(
        "no-quick-close",
        text="start no helper process that makes the kernel close this masterd's connections at once if it is killed "
        "(Linux)",
    )
    parser.add_flag("allow-drills", text="allow requests to kill or freeze this masterd while it leads (nodectl drill)")
    return parser


def _add_tls(parser: options.Parser) -> None:
    parser.add_option(
        "tls-cert", Path, default="", meta="FILE",
        text="file of this masterd's certificate; enables TLS for the HTTP API. It is also shown to other masterds",
    )  # fmt: skip
    parser.add_option("tls-key", Path, default="", meta="FILE", text="file of the private key of --tls-cert")
    parser.add_option(
        "tls-ca", Path, default="", meta="FILE",
        text="file of the certificate authority of the clients and of the other masterds",
    )  # fmt: skip
    parser.add_option(
        "tls-crl", Path, default="", meta="FILE",
        text="file of the revocation list of that authority; connections of revoked certificates are closed",
    )  # fmt: skip
    parser.add_option(
        "plain-listen", _listen, default="", meta="HOST:PORT",
        text="another address of the HTTP API, without TLS, while clients move to TLS",
    )  # fmt: skip
    parser.add_flag("insecure", text="without TLS, accept requests of other PCs: anybody who reaches --listen commands")


def _settings(chosen: argparse.Namespace) -> Settings:
    listen: Address = chosen.listen
    tls = _tls_files(chosen)
    scheme = "http" if tls is None else "https"
    advertise = chosen.advertise or f"{scheme}://{listen._replace(host=_reachable(listen.host))}"
    _check_advertised(advertise)
    _check_exposure(chosen, tls, advertise)
    etcd = options.etcd_settings(chosen)
    space = SpaceSettings(quota_bytes=chosen.etcd_quota_bytes)
    leader = LeaderSettings(
        max_txn_ops=chosen.max_txn_ops,
        request_bytes_max=chosen.max_request_bytes,
        handler_timeout_s=chosen.handler_timeout,
        derive_node_timeout_s=chosen.derive_timeout,
        retention=RetentionSettings(snapshot_every_commands=chosen.snapshot_every),
        budget=StoreBudget.of_quota(chosen.etcd_quota_bytes),
    )
    return Settings(
        cluster=chosen.cluster,
        master=chosen.id,
        host=chosen.host or socket.gethostname(),
        etcd=etcd,
        listen=listen,
        advertise=advertise.rstrip("/"),
        priority=chosen.priority,
        application=chosen.app,
        log_level=options.read_log_level(chosen.log_level_file, chosen.log_level),
        log_level_file=chosen.log_level_file,
        log_file=log_file_settings(chosen),
        master_settings=MasterSettings(
            lease_ttl_s=chosen.lease_ttl,
            timing=_timing(chosen),
            find_member=_member(chosen, etcd.endpoints, advertise),
            leader=leader,
            space=space,
            allow_drills=chosen.allow_drills,
            audit_file=None if chosen.state_dir is None else chosen.state_dir / "audit.jsonl",
            audit_exports=_audit_exports(chosen),
            audit_export_ca=chosen.audit_export_ca,
            require_credentials=chosen.require_credentials,
            allowed_hosts=chosen.allow_host or (),
            allowed_origins=chosen.allow_origin or (),
            session_idle_s=chosen.session_idle,
            session_lasts_s=chosen.session_lasts,
            remember=None if chosen.state_dir is None else partial(MarkFile, chosen.state_dir),
        ),
        maintenance=options.maintenance_settings(chosen, etcd),
        tls=tls,
        quick_close=not chosen.no_quick_close,
        plain_listen=chosen.plain_listen,
    )


def _tls_files(chosen: argparse.Namespace) -> TlsFiles | None:
    """The files of --tls-cert and so on; None if none is given. Invalid if one is missing or cannot be read."""
    given = {name: getattr(chosen, f"tls_{name}") for name in ("cert", "key", "ca", "crl")}
    if all(path is None for path in given.values()):
        return None
    missing = [f"--tls-{name}" for name in ("cert", "key", "ca") if given[name] is None]
    if missing:
        raise Invalid(f"--tls-cert, --tls-key and --tls-ca belong together: {' and '.join(missing)} is missing")
    for name, path in given.items():
        if path is not None:
            options.read_option_file(f"--tls-{name}", path)
    return TlsFiles(**given)


def _check_exposure(chosen: argparse.Namespace, tls: TlsFiles | None, advertise: str) -> None:
    """Without TLS, other PCs are served only if that is wanted. Raises Invalid otherwise."""
    if tls is None:
        if chosen.plain_listen is not None:
            raise Invalid("--plain-listen is for a masterd with TLS: give --tls-cert, --tls-key and --tls-ca")
        if not chosen.insecure and not is_loopback(chosen.listen.host):
            raise Invalid(
                f"--listen {chosen.listen}: without TLS, masterd listens on 127.0.0.1, ::1 and localhost only: give "
                f"--tls-cert, --tls-key and --tls-ca (`nodectl pki issue masterd:{chosen.id}` makes them), or "
                "--insecure if anybody who reaches this address may command"
            )
    elif chosen.plain_listen is None and urlsplit(advertise).scheme != "https":
        raise Invalid(f"--advertise {advertise}: the API has TLS, so its URL begins with https://")
    elif chosen.plain_listen is not None and chosen.plain_listen.port == chosen.listen.port:
        raise Invalid("--plain-listen and --listen need different ports")


def _audit_exports(chosen: argparse.Namespace) -> tuple[SinkSpec, ...]:
    """The sinks of --audit-export. Raises Invalid if there is nowhere to note how far an export is."""
    sinks: tuple[SinkSpec, ...] = chosen.audit_export or ()
    if sinks and chosen.state_dir is None:
        raise Invalid("--audit-export needs --state-dir: there masterd notes how far each export is")
    if len(sinks) > _SINKS_MAX:
        raise Invalid(f"--audit-export names {len(sinks)} sinks; the limit is {_SINKS_MAX}")
    if chosen.audit_export_ca is not None:
        options.read_option_file("--audit-export-ca", chosen.audit_export_ca)
    return tuple({str(sink): sink for sink in sinks}.values())


def _directory(text: str) -> Path:
    path = Path(text).absolute()
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is not a directory")
    return path


def _member(chosen: argparse.Namespace, endpoints: tuple[str, ...], advertise: str) -> FindMember | None:
    """A function that finds the etcd member on this PC; None if --local-member says that there is none."""
    option: str = chosen.local_member
    if option == "none":
        return None
    if option == "auto":
        return partial(find_local_member, endpoints, urlsplit(advertise).hostname or "")
    if (member := host_port(option)) not in endpoints:
        raise Invalid(f"--local-member: {option} is not among --endpoints {','.join(endpoints)}")

    async def named() -> LocalMember:
        return LocalMember(member)

    return named


def _timing(chosen: argparse.Namespace) -> ElectionTiming:
    """The profile of --timing. An option for a single time, such as --beat, overrides the profile's value."""
    own = {f"{name.replace('-', '_')}_s": getattr(chosen, name.replace("-", "_")) for name in TIMES}
    timing = replace(PROFILES[chosen.timing], **{field: value for field, value in own.items() if value is not None})
    if not timing.beat_s < timing.missed_s < timing.silence_s:
        raise Invalid(
            f"--beat {format_duration(timing.beat_s)} must be less than --missed {format_duration(timing.missed_s)}, "
            f"and that less than --silence {format_duration(timing.silence_s)}"
        )
    for name in ("silence", "answer"):
        if own[f"{name}_s"] is not None and own[f"{name}_s"] >= chosen.lease_ttl:
            raise Invalid(
                f"--{name} {format_duration(own[f'{name}_s'])} must be less than "
                f"--lease-ttl {format_duration(chosen.lease_ttl)}: the leader's key expires with its lease anyway"
            )
    return timing


def _profile(text: str) -> str:
    if text not in PROFILES:
        raise ValueError(f"{text!r} is not one of: {', '.join(PROFILES)}")
    return text


def _check_advertised(url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as an IPv6 address without brackets
        valid = False
    if not valid:
        raise Invalid(f"--advertise: {url!r} is not a URL such as http://10.0.0.1:8401 or http://[fd00::1]:8401")


def _reachable(host: str) -> str:
    return socket.gethostname() if host in ("0.0.0.0", "::", "") else host  # noqa: S104 - does not bind


def _master(text: str) -> str:
    return check_name("master", text)


def _listen(text: str) -> Address:
    return parse_address(text, host_optional=True)
