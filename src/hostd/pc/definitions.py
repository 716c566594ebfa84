"""The definition of each service of a PC: command line, directories, limits. From the PC's own files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hostd.pc.host_file import HostFile
from hostd.pc.layout import Layout
from nodestore.etcd.member_defaults import DEFAULT_SETTINGS, MEMORY_ENVIRONMENT, MemberConfig
from nodestore.schema.host_models import url_host
from nodestore.services.definitions import SERVICES
from nodestore.services.manager import ServiceDefinition, ServiceDirectory

ETCD, MASTERD, NODED, HOSTD = SERVICES


class Definitions:
    """The definitions of one PC's services."""

    def __init__(self, layout: Layout, host: HostFile) -> None:
        self._layout, self._host = layout, host

    def etcd(self, initial_cluster: Mapping[str, str], *, existing: bool) -> ServiceDefinition:
        """initial_cluster: by name the peer URL of each member, when this one began. etcd ignores it afterwards."""
        host, directory = self._host, self._layout.tls("etcd")
        config = MemberConfig(
            name=host.host,
            data_dir=self._layout.etcd_data,
            client_url=f"https://{host.own_endpoint}",
            peer_url=host.peer_url,
            initial_cluster=initial_cluster,
            cluster_token=f"nodectl-{host.cluster}",
            existing=existing,
            settings={
                "cert-file": str(directory / f"{host.host}.crt"),
                "key-file": str(directory / f"{host.host}.key"),
                "trusted-ca-file": str(directory / "ca.crt"),
                "client-crl-file": str(directory / "ca.crl"),
                "client-cert-auth": "true",
                "peer-cert-file": str(directory / f"{host.host}-peer.crt"),
                "peer-key-file": str(directory / f"{host.host}-peer.key"),
                "peer-trusted-ca-file": str(directory / "peer-ca.crt"),
                "peer-crl-file": str(directory / "peer-ca.crl"),
                "peer-client-cert-auth": "true",
                "enable-grpc-gateway": "false",  # it does not know the names in certificates
            },
        )
        argv = config.command(self._layout.root / host.etcd)
        return self._definition(ETCD, argv, self._layout.etcd_data, ("etcd",), env=MEMORY_ENVIRONMENT)

    def masterd(self) -> ServiceDefinition:
        host, tls = self._host, self._layout.tls_files("masterd", self._host.host)
        maintenance = self._layout.tls_files("maintenance", host.host)
        state = self._layout.var / "masterd"
        argv = [
            host.python, "-m", "masterd", "--id", host.host, "--cluster", host.cluster,
            "--endpoints-file", str(self._layout.endpoints), "--listen", f"{url_host(host.address)}:{host.ports.api}",
            "--state-dir", str(state),
            "--max-txn-ops", DEFAULT_SETTINGS["max-txn-ops"],
            "--max-request-bytes", DEFAULT_SETTINGS["max-request-bytes"],
            "--ca", str(tls.ca), "--cert", str(tls.cert), "--key", str(tls.key),
            "--tls-ca", str(tls.ca), "--tls-cert", str(tls.cert), "--tls-key", str(tls.key), "--tls-crl", str(tls.crl),
            "--maintenance-cert", str(maintenance.cert), "--maintenance-key", str(maintenance.key),
        ]  # fmt: skip
        return self._definition(MASTERD, argv, state, ("masterd", "maintenance"))

    def noded(self) -> ServiceDefinition:
        host, tls, work = self._host, self._layout.tls_files("noded", self._host.host), self._layout.var / "noded"
        argv = [
            host.python, "-m", "noded", "--node", host.host, "--cluster", host.cluster,
            "--endpoints-file", str(self._layout.endpoints), "--work-dir", str(work),
            "--host-id", f"{host.cluster}-{host.host}",
            "--ca", str(tls.ca), "--cert", str(tls.cert), "--key", str(tls.key), "--crl", str(tls.crl),
        ]  # fmt: skip
        return self._definition(NODED, argv, work, ("noded",))

    def hostd(self) -> ServiceDefinition:
        argv = [self._host.python, "-m", "hostd", "--root", str(self._layout.root), *self._host.hostd_options]
        return self._definition(HOSTD, argv, self._layout.hostd, ("hostd",))

    def _definition(
        self, name: str, argv: list[str], data: Path, certificates: Sequence[str], env: Mapping[str, str] | None = None
    ) -> ServiceDefinition:
        """The definition of the common table, with what depends on this PC. certificates: those that it reads."""
        return replace(
            SERVICES[name],
            argv=tuple(argv),
            env=dict(env or {}),
            env_file=None,
            directories=(ServiceDirectory(data),),
            readable=tuple(map(self._layout.tls, certificates)),
            log=self._layout.log / f"{name}.log",
        )
