"""The certificates of a development cluster, issued by authorities in the cluster's own directory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nodectl.dev.record import Record
from nodestore.support.tls_files import TlsFiles

OPERATOR = "dev"
"""Name in the certificate of the user of the cluster, whose kind is `operator`."""


class DevCertificates:
    """The certificates in `directory`, which need not exist yet."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def operator(self) -> TlsFiles:
        """The files of the user of the cluster."""
        return self.of("operator", OPERATOR)

    def of(self, kind: str, name: str) -> TlsFiles:
        """The files of one program or person."""
        own = self._directory / "issued" / f"{kind}-{name}"
        return TlsFiles(ca=own / "ca.crt", cert=own / f"{name}.crt", key=own / f"{name}.key", crl=own / "ca.crl")

    def member_settings(self, name: str) -> dict[str, str]:
        """The settings by which an etcd member uses its certificates, by the names of etcd's flags."""
        own = self._directory / "issued" / f"etcd-{name}"
        return {
            "cert-file": str(own / f"{name}.crt"),
            "key-file": str(own / f"{name}.key"),
            "trusted-ca-file": str(own / "ca.crt"),
            "client-crl-file": str(own / "ca.crl"),
            "client-cert-auth": "true",
            "peer-cert-file": str(own / f"{name}-peer.crt"),
            "peer-key-file": str(own / f"{name}-peer.key"),
            "peer-trusted-ca-file": str(own / "peer-ca.crt"),
            "peer-crl-file": str(own / "peer-ca.crl"),
            "peer-client-cert-auth": "true",
        }

    def issue(self, record: Record, names: Iterable[str]) -> None:
        """Issue the certificates of these processes and of the user, unless they have fresh ones. Blocks."""
        from nodestore.pki.authority import Authorities  # here: it is slow to import
        from nodestore.pki.identity import Subject

        authorities = Authorities(self._directory)
        authorities.init(record.cluster)
        for subject in (*(Subject(record.parts[name].program, name) for name in names), Subject("operator", OPERATOR)):
            authorities.issue(subject)
