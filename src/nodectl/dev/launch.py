"""The command line, environment and directories of each process of a development cluster. Starts nothing itself."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nodectl.dev.certificates import DevCertificates
from nodectl.dev.ports import HOST
from nodectl.dev.record import Part, Record
from nodestore.etcd.member_defaults import DEFAULT_SETTINGS, MEMORY_ENVIRONMENT, MemberConfig
from nodestore.support.tls_files import TlsFiles

_KEPT = {"NODECTL_ALLOW_OLD_ETCD"}


@dataclass(frozen=True)
class Launch:
    """How to start one process. `env` is added to `inherited_environment()`."""

    argv: list[str]
    env: dict[str, str]
    cwd: Path


@dataclass(frozen=True)
class ClusterPaths:
    """The paths in a cluster's directory."""

    directory: Path

    def data(self, name: str, part: Part) -> Path | None:
        """Return the process's data directory; None for a masterd, which keeps everything in etcd."""
        if part.program == "masterd":
            return None
        return self.directory / ("etcd" if part.program == "etcd" else "nodes") / name

    def log(self, name: str) -> Path:
        return self.directory / "log" / f"{name}.log"

    @property
    def certificates(self) -> DevCertificates:
        return DevCertificates(self.directory / "pki")

    @property
    def client_config(self) -> Path:
        """The configuration file for `nodectl --config`, which names this cluster."""
        return self.directory / "nodectl.yaml"


def inherited_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without the variables that would change a program's settings."""
    environ = os.environ if environ is None else environ
    return {
        key: value
        for key, value in environ.items()
        if key in _KEPT or not key.upper().startswith(("NODECTL_", "ETCD_"))
    }


def endpoints(record: Record) -> tuple[str, ...]:
    """Return the client addresses of the etcd members, as host:port."""
    return tuple(f"{HOST}:{part.ports['client']}" for part in record.parts_of("etcd").values())


def addresses(part: Part, *, tls: bool) -> dict[str, str]:
    """Return the URLs that a process serves, by their use (`client`, `peer`, `api`)."""
    return {use: f"http{'s' if tls else ''}://{HOST}:{port}" for use, port in part.ports.items()}


def launch_command(
    record: Record, name: str, places: ClusterPaths, etcd: Path, environ: Mapping[str, str] | None = None
) -> Launch:
    """Return how to start the process `name`. `etcd`: the path of the server's program."""
    environ = os.environ if environ is None else environ
    part = record.parts[name]
    if part.program == "etcd":
        return _member(record, name, places, etcd)
    prefix = _prefix(part.program, environ)
    common = ["--cluster", record.cluster, "--endpoints", ",".join(_own_first(record, name))]
    if part.program == "masterd":
        own = [
            "--id", name, "--listen", f"{HOST}:{part.ports['api']}",
            "--max-txn-ops", DEFAULT_SETTINGS["max-txn-ops"],
            "--max-request-bytes", DEFAULT_SETTINGS["max-request-bytes"],
        ]  # fmt: skip
    else:
        own = ["--node", name, "--work-dir", str(places.data(name, part))]
    # Variables, not options: earlier releases of masterd, which do not know the options, must start as well.
    variables = {}
    if part.program == "masterd":
        variables = {"NODECTL_ALLOW_DRILLS": "1", "NODECTL_STATE_DIR": str(places.directory / "masterd" / name)}
    if record.tls:
        variables |= _tls_variables(places.certificates.of(part.program, name), part.program)
    return Launch([*prefix, *own, *common], variables, places.directory)


def _tls_variables(files: TlsFiles, program: str) -> dict[str, str]:
    """The settings of masterd or noded for connections with TLS: to etcd, to masters, and from clients."""
    found = {"NODECTL_CA": files.ca, "NODECTL_CERT": files.cert, "NODECTL_KEY": files.key}
    if program == "masterd":
        found |= {f"NODECTL_TLS_{name.upper()}": getattr(files, name) for name in ("ca", "cert", "key", "crl")}
    else:
        found["NODECTL_CRL"] = files.crl
    return {name: str(path) for name, path in found.items()}


def _member(record: Record, name: str, places: ClusterPaths, etcd: Path) -> Launch:
    part = record.parts[name]
    data = places.data(name, part)
    assert data is not None
    urls = addresses(part, tls=record.tls)
    config = MemberConfig(
        name=name,
        data_dir=data,
        client_url=urls["client"],
        peer_url=urls["peer"],
        initial_cluster={
            other: addresses(member, tls=record.tls)["peer"] for other, member in record.parts_of("etcd").items()
        },
        cluster_token=record.token,
        settings={
            **({"unsafe-no-fsync": "true"} if record.unsafe_no_fsync else {}),
            **(places.certificates.member_settings(name) if record.tls else {}),
        },
    )
    return Launch(config.command(etcd), dict(MEMORY_ENVIRONMENT), places.directory)


def _own_first(record: Record, name: str) -> list[str]:
    """Return the endpoints, rotated so that each process begins with another member, as if each PC ran one."""
    found = endpoints(record)
    same = list(record.parts_of(record.parts[name].program))
    shift = same.index(name) % len(found)
    return [*found[shift:], *found[:shift]]


def _prefix(program: str, environ: Mapping[str, str]) -> list[str]:
    """Return the command that runs masterd or noded: NODECTL_DEV_MASTERD, NODECTL_DEV_NODED, or the installed one."""
    given = environ.get(f"NODECTL_DEV_{program.upper()}")
    if not given:
        return [sys.executable, "-m", program]
    if os.name == "nt":
        return [part.strip('"') for part in shlex.split(given, posix=False)]
    return shlex.split(given)
