"""The definition of each service of a PC: command line, directories, limits. From the PC's own files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hostd.pc.host_file import HostFile
from hostd.pc.layout import Layout
from nodestore.etcd.member_defaults import DEFAULT_SETTINGS, MEMORY_ENVIRONMENT, MemberConfig
from nodestore.schema.host_models import url_host
from nodestore.services.manager import ServiceDefinition, ServiceDirectory, ServiceLimits

ETCD, MASTERD, NODED, HOSTD = "nodectl-etcd", "nodectl-masterd", "nodectl-noded", "nodectl-hostd"
MIB = 1 << 20


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
        server, *arguments = config.command(self._layout.root / host.etcd)
        return self._definition(
            ETCD, "etcd, a member of the nodectl cluster", [server, *arguments], env=MEMORY_ENVIRONMENT,
            directories=(ServiceDirectory(self._layout.etcd_data),), user="nodectl-etcd", tls="etcd", notify=True,
            limits=ServiceLimits(memory_bytes=512 * MIB, open_files=65_536), stop_timeout_s=30.0,
        )  # fmt: skip

    def masterd(self, endpoints: Sequence[str]) -> ServiceDefinition:
        host, tls = self._host, self._layout.tls_files("masterd", self._host.host)
        maintenance = self._layout.tls_files("maintenance", host.host)
        state = self._layout.var / "masterd"
        argv = [
            host.python, "-m", "masterd", "--id", host.host, "--cluster", host.cluster,
            "--endpoints", ",".join(endpoints), "--listen", f"{url_host(host.address)}:{host.ports.api}",
            "--state-dir", str(state),
            "--max-txn-ops", DEFAULT_SETTINGS["max-txn-ops"],
            "--max-request-bytes", DEFAULT_SETTINGS["max-request-bytes"],
            "--ca", str(tls.ca), "--cert", str(tls.cert), "--key", str(tls.key),
            "--tls-ca", str(tls.ca), "--tls-cert", str(tls.cert), "--tls-key", str(tls.key), "--tls-crl", str(tls.crl),
            "--maintenance-cert", str(maintenance.cert), "--maintenance-key", str(maintenance.key),
        ]  # fmt: skip
        return self._definition(
            MASTERD, "masterd, the master of the nodectl cluster", argv, directories=(ServiceDirectory(state),),
            user="nodectl-masterd", tls="masterd", limits=ServiceLimits(memory_bytes=768 * MIB, open_files=4096),
        )  # fmt: skip

    def noded(self, endpoints: Sequence[str]) -> ServiceDefinition:
        host, tls, work = self._host, self._layout.tls_files("noded", self._host.host), self._layout.var / "noded"
        argv = [
            host.python, "-m", "noded", "--node", host.host, "--cluster", host.cluster,
            "--endpoints", ",".join(endpoints), "--work-dir", str(work), "--host-id", f"{host.cluster}-{host.host}",
            "--ca", str(tls.ca), "--cert", str(tls.cert), "--key", str(tls.key), "--crl", str(tls.crl),
        ]  # fmt: skip
        return self._definition(
            NODED, "noded, which drives the application on this PC", argv, directories=(ServiceDirectory(work),),
            user="nodectl-noded", tls="noded",
        )  # fmt: skip

    def hostd(self) -> ServiceDefinition:
        argv = [self._host.python, "-m", "hostd", "--root", str(self._layout.root), *self._host.hostd_options]
        return self._definition(
            HOSTD, "hostd, which runs the nodectl services of this PC", argv,
            directories=(ServiceDirectory(self._layout.hostd),), user=None, tls="hostd", stop_timeout_s=120.0,
            limits=ServiceLimits(memory_bytes=256 * MIB),
        )  # fmt: skip

    def _definition(
        self, name: str, description: str, argv: list[str], *, directories: tuple[ServiceDirectory, ...],
        user: str | None, tls: str, env: Mapping[str, str] | None = None, notify: bool = False,
        limits: ServiceLimits = ServiceLimits(), stop_timeout_s: float = 20.0,
    ) -> ServiceDefinition:  # fmt: skip
        kinds = (tls, "maintenance") if name == MASTERD else (tls,)
        return ServiceDefinition(
            name=name, description=description, argv=tuple(argv), env=dict(env or {}), directories=directories,
            user=user, readable=tuple(map(self._layout.tls, kinds)), notify=notify, limits=limits,
            stop_timeout_s=stop_timeout_s, log=self._layout.log / f"{name}.log",
        )  # fmt: skip
