"""Runs apt on chosen package sources, with lists, state and cache of its own: it installs nothing and needs no root.

apt checks signatures with the keyring that the sources name. Packages are downloaded and unpacked, not installed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nodestore.errors import NodectlError, Unavailable
from nodestore.processes import child_processes

_COMMAND_TIMEOUT_S = 120.0
_UNREACHABLE = (
    "Could not resolve", "Temporary failure resolving", "Could not connect", "Unable to connect", "Connection failed",
    "Connection timed out", "Connection refused", "Cannot initiate the connection", "Network is unreachable",
)  # fmt: skip

_APT_CONF = """\
Dir::Etc "HOME/etc";
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "HOME/etc/sources.list.d";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "HOME/state";
Dir::State::Status "HOME/state/status";
Dir::Cache "HOME/cache";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
APT::Get::AllowUnauthenticated "0";
Acquire::AllowInsecureRepositories "0";
Acquire::Languages "none";
Acquire::PDiffs "0";
Acquire::Retries "0";
Acquire::http::Timeout "6";
Acquire::https::Timeout "6";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "0";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "0";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""
# Sandbox::User: apt would switch to the user _apt, who may not read our folder. #clear: the PC's own hooks after an
# update would fail without root.


class MirrorUnreachable(Unavailable):
    """The mirror cannot be reached, so its other suites are skipped."""


@dataclass(frozen=True, slots=True)
class AptSource:
    """One suite of one mirror, and the keyring that verifies it."""

    uri: str
    suite: str
    components: tuple[str, ...]
    keyring: str

    def stanza(self) -> str:
        return (
            f"Types: deb\nURIs: {self.uri}\nSuites: {self.suite}\nComponents: {' '.join(self.components)}\n"
            f"Signed-By: {self.keyring}\n"
        )


class PrivateApt:
    """apt with the given sources. It writes only below `home`, which the caller removes.

    architecture: Debian's name of the architecture to fetch for, if it is not this PC's.
    """

    def __init__(self, home: Path, sources: Iterable[AptSource], architecture: str | None = None) -> None:
        self._home = home
        self._stanzas = [source.stanza() for source in sources]
        self._architecture = architecture

    def update(self) -> None:
        """Fetch and verify the lists. Raises MirrorUnreachable, or Unavailable for any other failure."""
        self._prepare()
        done = self._run("apt-get", "-q", "update")
        if done.returncode != 0:
            output = done.stdout + done.stderr
            kind = MirrorUnreachable if any(sign in output for sign in _UNREACHABLE) else Unavailable
            raise kind(last_error(output))

    def _prepare(self) -> None:
        for name in ("etc/sources.list.d", "state/lists/partial", "cache/archives/partial", "packages"):
            (self._home / name).mkdir(parents=True, exist_ok=True)
        (self._home / "etc/sources.list.d/private.sources").write_text("\n".join(self._stanzas))
        (self._home / "state/status").touch()
        (self._home / "apt.conf").write_text(_APT_CONF.replace("HOME", str(self._home)) + self._architecture_lines())

    def _architecture_lines(self) -> str:
        name = self._architecture
        return f'APT::Architecture "{name}";\nAPT::Architectures {{ "{name}"; }};\n' if name else ""

    def madison(self, package: str) -> str:
        """The output of `apt-cache madison`: the versions of a package."""
        return self._run("apt-cache", "madison", package).stdout

    def download(self, *packages: str) -> list[Path]:
        """Download packages, and verify their checksums. Returns their files, sorted. Raises Unavailable."""
        folder = self._home / "packages"
        done = self._run("apt-get", "-q", "download", *packages, cwd=folder)
        if done.returncode != 0:
            raise Unavailable(last_error(done.stdout + done.stderr))
        return sorted(file for file in folder.glob("*.deb") if file.name.partition("_")[0] in packages)

    def unpack(self, package: Path, root: Path) -> None:
        """Unpack the files of a package into `root`. Raises NodectlError if it is corrupt."""
        done = self._run("dpkg-deb", "-x", str(package), str(root))
        if done.returncode != 0:
            raise NodectlError(f"{package.name} is corrupt: {last_error(done.stderr)}")

    def _run(self, *argv: str, cwd: Path | None = None) -> child_processes.Completed:
        command = argv if argv[0] == "dpkg-deb" else (argv[0], "-c", str(self._home / "apt.conf"), *argv[1:])
        env = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        return child_processes.run(command, cwd=cwd or self._home, env=env, timeout_s=_COMMAND_TIMEOUT_S)


def has_apt() -> bool:
    """Whether this PC has the programs that PrivateApt needs."""
    return bool(shutil.which("apt-get") and shutil.which("apt-cache") and shutil.which("dpkg-deb"))


def last_error(output: str) -> str:
    """The first error or warning of apt, without its prefix."""
    errors = [line[2:].strip() for line in output.splitlines() if line.startswith(("E:", "W:"))]
    return errors[0] if errors else (output.strip().splitlines() or ["failed without a message"])[-1]
