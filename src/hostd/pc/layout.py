"""`Layout`: where everything of a PC is, below one root, so that several PCs fit on one machine."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from nodestore.errors import NodectlError
from nodestore.support.tls_files import TlsFiles


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of a PC. `root`: an absolute path."""

    root: Path

    @classmethod
    def of(cls, root: Path | None) -> Layout:
        """The layout below `root`; None: below the system's own root."""
        return cls(default_root() if root is None else root.absolute())

    @property
    def etc(self) -> Path:
        return self.root / "etc" if sys.platform == "win32" else self.root / "etc" / "nodectl"

    @property
    def var(self) -> Path:
        return self.root / "var" if sys.platform == "win32" else self.root / "var" / "lib" / "nodectl"

    @property
    def log(self) -> Path:
        return self.root / "log" if sys.platform == "win32" else self.root / "var" / "log" / "nodectl"

    @property
    def host_file(self) -> Path:
        return self.etc / "host.json"

    @property
    def pki(self) -> Path:
        """The directory of the authorities, which exists on signers only."""
        return self.etc / "pki"

    @property
    def endpoints(self) -> Path:
        """The file of etcd's members, which the programs of this PC follow."""
        return self.etc / "endpoints"

    @property
    def client_config(self) -> Path:
        return self.etc / "nodectl.yaml"

    @property
    def services(self) -> Path:
        """The records of services that run as plain processes."""
        return self.var / "services"

    @property
    def hostd(self) -> Path:
        return self.var / "hostd"

    @property
    def report(self) -> Path:
        """What hostd found at its last pass."""
        return self.hostd / "report.json"

    @property
    def etcd_data(self) -> Path:
        return self.var / "etcd"

    def make_directories(self, *, data: bool) -> None:
        """Make the directories that several users enter and only this one writes, whatever the umask is.

        data: also those of data and logs, not of settings alone.

        With a umask of 000 everybody could replace files that hostd, which has all rights, believes; with one of 077
        the users of the services could not enter. Directories that exist are left as they are. Raises NodectlError.
        """
        for path in (self.etc, self.etc / "tls", *((self.var, self.hostd, self.log) if data else ())):
            for missing in reversed([item for item in (path, *path.parents) if not item.exists()]):
                try:
                    missing.mkdir()
                    missing.chmod(0o755)
                except OSError as error:
                    raise NodectlError(f"cannot make the directory {missing}: {error.strerror or error}") from None

    def tls(self, kind: str) -> Path:
        """The directory of the certificates of one program."""
        return self.etc / "tls" / kind

    def tls_files(self, kind: str, name: str) -> TlsFiles:
        directory = self.tls(kind)
        return TlsFiles(
            ca=directory / "ca.crt", cert=directory / f"{name}.crt", key=directory / f"{name}.key",
            crl=directory / "ca.crl",
        )  # fmt: skip


def default_root() -> Path:
    """The root without the option --root."""
    if sys.platform == "win32":
        return Path(os.environ.get("PROGRAMDATA") or "C:\\ProgramData") / "nodectl"
    return Path("/")
