"""Gets etcd from the packages of Debian, Ubuntu and their derivatives, without root and without installing anything.

apt runs with lists, state and cache in a temporary folder, on the mirror that this PC already uses. It checks
signatures with the distribution's keyring. The packages are then unpacked, not installed. The stable suites have
versions that are too old, so newer suites of the same mirror are tried as well.
"""

from __future__ import annotations

import glob
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nodectl.etcd_binary.release import PROGRAMS
from nodestore.errors import NodectlError, Unavailable
from nodestore.etcd.versions import Version, parse_version
from nodestore.processes import child_processes

_MIRRORS_MAX = 3
_UPDATE_TIMEOUT_S = 120.0
_TOTAL_TIMEOUT_S = 300.0
_UNREACHABLE = (
    "Could not resolve", "Temporary failure resolving", "Could not connect", "Unable to connect", "Connection failed",
    "Connection timed out", "Connection refused", "Cannot initiate the connection", "Network is unreachable",
)  # fmt: skip


@dataclass(frozen=True)
class PackageSource:
    """A package source of this PC: one URI and one suite of sources.list(5)."""

    uri: str
    suite: str
    components: tuple[str, ...]


@dataclass(frozen=True)
class Distribution:
    """Keyring, components and suites of Debian or Ubuntu."""

    keyring: str
    components: tuple[str, ...]
    suites: tuple[str, ...]
    too_old: frozenset[str]


DEBIAN = Distribution(
    keyring="/usr/share/keyrings/debian-archive-keyring.gpg",
    components=("main",),
    suites=("trixie-backports", "forky", "testing", "sid"),
    too_old=frozenset(
        {"buster", "bullseye", "bookworm", "trixie"}
    ),  # trying them would download a useless index of 9 MB
)
UBUNTU = Distribution(
    keyring="/usr/share/keyrings/ubuntu-archive-keyring.gpg",
    components=("main", "universe"),
    suites=("devel",),
    too_old=frozenset({"focal", "jammy", "noble"}),
)


def parse_sources(text: str) -> list[PackageSource]:
    """Parse the enabled sources of binary packages in a deb822 file (`*.sources`)."""
    return [source for stanza in text.split("\n\n") for source in _stanza(stanza)]


def _stanza(text: str) -> list[PackageSource]:
    fields: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line[0] in " \t":
            fields[name] = f"{fields.get(name, '')} {line.strip()}"
        else:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    if fields.get("enabled", "yes").lower() in ("no", "false", "0") or "deb" not in fields.get("types", "").split():
        return []
    components = tuple(fields.get("components", "").split())
    suites = fields.get("suites", "").split()
    return [PackageSource(uri, suite, components) for uri in fields.get("uris", "").split() for suite in suites]


def parse_list(text: str) -> list[PackageSource]:
    """Parse the sources of binary packages in a one-line-style file (`sources.list`)."""
    found = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words or words.pop(0) != "deb":
            continue
        if words and words[0].startswith("["):
            while words and not words.pop(0).endswith("]"):
                pass
        if len(words) >= 2:
            found.append(PackageSource(words[0], words[1], tuple(words[2:])))
    return found


def parse_os_release(text: str) -> dict[str, str]:
    """Parse the variables of os-release(5)."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def distribution(release: Mapping[str, str]) -> Distribution | None:
    """The distribution whose packages fit a PC with this os-release; None if it is neither Debian nor Ubuntu."""
    names = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    return UBUNTU if "ubuntu" in names else DEBIAN if "debian" in names else None


def codename(release: Mapping[str, str]) -> str:
    """The suite that this PC was installed from; for a derivative, the suite it derives from, if it is named."""
    return release.get("UBUNTU_CODENAME") or release.get("DEBIAN_CODENAME") or release.get("VERSION_CODENAME", "")


def mirrors(sources: Iterable[PackageSource], own: str) -> list[str]:
    """URIs from which this PC gets its distribution, without the security archive and repositories of third parties.

    Most third parties use another suite or have no `main`. One that is not filtered out fails the signature check.
    """
    suites = {own, "stable", "oldstable", "testing", "unstable", "sid"}
    uris = [
        source.uri
        for source in sources
        if source.suite in suites and "main" in source.components and "security" not in source.uri
    ]
    return list(dict.fromkeys(uris))[:_MIRRORS_MAX]


def suites(distribution: Distribution, own: str) -> list[str]:
    """The suites to try, in order: the PC's own one, unless it is known to be too old, then newer ones."""
    first = [] if own in distribution.too_old or not own else [own]
    return list(dict.fromkeys([*first, *distribution.suites]))


def available_versions(madison: str) -> list[Version]:
    """Parse the versions in the output of `apt-cache madison etcd-server`, newest first."""
    rows = (line.split("|") for line in madison.splitlines())
    found = (parse_version(row[1]) for row in rows if len(row) >= 3)
    return sorted((version for version in found if version is not None), reverse=True)


# --- from here on I/O -----------------------------------------------------------------------------------------------


def machine_sources(etc: Path = Path("/etc/apt")) -> list[PackageSource]:
    """Read all package sources of this PC. Unreadable files are skipped."""
    found = []
    for path in [etc / "sources.list", *map(Path, sorted(glob.glob(f"{etc}/sources.list.d/*")))]:
        parse = {".list": parse_list, ".sources": parse_sources}.get(path.suffix)
        if parse is not None and path.is_file():
            try:
                found += parse(path.read_text(errors="replace"))
            except OSError:
                continue
    return found


def fetch(folder: Path, reason_against: Callable[[Version], str | None], progress: Callable[[str], None]) -> Version:
    """Put etcd's programs into `folder` and return their version.

    `reason_against` returns why a version is not usable, or None. Raises Unavailable if no mirror has a usable version,
    or none can be reached.
    """
    release = _os_release()
    distro = distribution(release)
    if distro is None or not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise Unavailable("this PC does not run Debian, Ubuntu or a derivative with apt-get and dpkg-deb")
    if not Path(distro.keyring).is_file():
        raise Unavailable(f"{distro.keyring} is missing")
    own = codename(release)
    uris = mirrors(machine_sources(), own)
    if not uris:
        raise Unavailable("/etc/apt names no mirror of the distribution")
    deadline = time.monotonic() + _TOTAL_TIMEOUT_S
    failures: list[str] = []
    for uri in uris:
        for suite in suites(distro, own):
            if time.monotonic() > deadline:
                raise Unavailable(f"timed out after {_TOTAL_TIMEOUT_S:g} s; " + "; ".join(failures))
            progress(f"etcd: trying {uri} {suite}")
            try:
                return _Apt(folder.parent / f"{folder.name}.apt", distro, uri, suite).fetch(folder, reason_against)
            except _MirrorUnreachable as error:
                failures.append(f"{uri}: {error}")
                break
            except NodectlError as error:
                failures.append(f"{suite}: {error}")
                progress(f"etcd: skipped suite {suite}: {error}")
    raise Unavailable("; ".join(failures))


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


class _MirrorUnreachable(Unavailable):
    """The mirror cannot be reached, so its other suites are skipped."""


def _os_release() -> dict[str, str]:
    try:
        return parse_os_release(Path("/etc/os-release").read_text(errors="replace"))
    except OSError:
        return {}


class _Apt:
    """Runs apt on one suite of one mirror. It writes only below `home`, which is removed at the end."""

    def __init__(self, home: Path, distro: Distribution, uri: str, suite: str) -> None:
        self._home = home
        self._sources = (
            f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {' '.join(distro.components)}\n"
            f"Signed-By: {distro.keyring}\n"
        )

    def fetch(self, folder: Path, reason_against: Callable[[Version], str | None]) -> Version:
        try:
            self._prepare()
            self._update()
            version = self._choose(reason_against)
            self._download()
            self._unpack(folder)
            return version
        finally:
            shutil.rmtree(self._home, ignore_errors=True)

    def _prepare(self) -> None:
        for name in ("etc/sources.list.d", "state/lists/partial", "cache/archives/partial", "packages"):
            (self._home / name).mkdir(parents=True, exist_ok=True)
        (self._home / "etc/sources.list.d/etcd.sources").write_text(self._sources)
        (self._home / "state/status").touch()
        (self._home / "apt.conf").write_text(_APT_CONF.replace("HOME", str(self._home)))

    def _update(self) -> None:
        done = self._run("apt-get", "-q", "update")
        if done.returncode != 0:
            output = done.stdout + done.stderr
            kind = _MirrorUnreachable if any(sign in output for sign in _UNREACHABLE) else Unavailable
            raise kind(_last_error(output))

    def _choose(self, reason_against: Callable[[Version], str | None]) -> Version:
        versions = available_versions(self._run("apt-cache", "madison", "etcd-server").stdout)
        if not versions:
            raise Unavailable("the suite has no package etcd-server")
        reason = reason_against(versions[0])
        if reason is not None:
            raise Unavailable(reason)
        return versions[0]

    def _download(self) -> None:
        for package, needed in (("etcd-server", True), ("etcd-client", False)):
            done = self._run("apt-get", "-q", "download", package, cwd=self._home / "packages")
            if done.returncode != 0 and needed:
                raise Unavailable(_last_error(done.stdout + done.stderr))

    def _unpack(self, folder: Path) -> None:
        root = self._home / "root"
        for package in sorted((self._home / "packages").glob("*.deb")):
            done = self._run("dpkg-deb", "-x", str(package), str(root))
            if done.returncode != 0:
                raise NodectlError(f"{package.name} is corrupt: {_last_error(done.stderr)}")
        for name in PROGRAMS:
            if (root / "usr/bin" / name).is_file():
                shutil.move(root / "usr/bin" / name, folder / name)

    def _run(self, *argv: str, cwd: Path | None = None) -> child_processes.Completed:
        command = argv if argv[0] == "dpkg-deb" else (argv[0], "-c", str(self._home / "apt.conf"), *argv[1:])
        env = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        return child_processes.run(command, cwd=cwd or self._home, env=env, timeout_s=_UPDATE_TIMEOUT_S)


def _last_error(output: str) -> str:
    """The first error or warning of apt, without its prefix."""
    errors = [line[2:].strip() for line in output.splitlines() if line.startswith(("E:", "W:"))]
    return errors[0] if errors else (output.strip().splitlines() or ["failed without a message"])[-1]
