"""Gets etcd from the packages of Debian, Ubuntu and their derivatives, without root and without installing anything.

apt runs with lists, state and cache in a temporary folder, on the mirror that this PC already uses. It checks
signatures with the distribution's keyring. The packages are then unpacked, not installed. The stable suites have
versions that are too old, so newer suites of the same mirror are tried as well.
"""

from __future__ import annotations

import contextlib
import glob
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nodectl.etcd_binary.private_apt import AptSource, MirrorUnreachable, PrivateApt, has_apt
from nodectl.etcd_binary.release import PROGRAMS
from nodestore.errors import NodectlError, Unavailable
from nodestore.etcd.versions import Version, parse_version

_MIRRORS_MAX = 3
_TOTAL_TIMEOUT_S = 300.0


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


def fetch(
    folder: Path,
    reason_against: Callable[[Version], str | None],
    progress: Callable[[str], None],
    architecture: str | None = None,
) -> Version:
    """Put etcd's programs into `folder` and return their version.

    architecture: Debian's name of the architecture, if it is not this PC's. `reason_against` returns why a version is
    not usable, or None. Raises Unavailable if no mirror has a usable version, or none can be reached.
    """
    release = os_release()
    distro = distribution(release)
    if distro is None or not has_apt():
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
                source = AptSource(uri, suite, distro.components, distro.keyring)
                return _fetch_from(source, folder, reason_against, architecture)
            except MirrorUnreachable as error:
                failures.append(f"{uri}: {error}")
                break
            except NodectlError as error:
                failures.append(f"{suite}: {error}")
                progress(f"etcd: skipped suite {suite}: {error}")
    raise Unavailable("; ".join(failures))


def os_release() -> dict[str, str]:
    """The variables of this PC's os-release(5); empty if it has none."""
    try:
        return parse_os_release(Path("/etc/os-release").read_text(errors="replace"))
    except OSError:
        return {}


def _fetch_from(
    source: AptSource, folder: Path, reason_against: Callable[[Version], str | None], architecture: str | None
) -> Version:
    home = folder.parent / f"{folder.name}.apt"
    try:
        apt = PrivateApt(home, [source], architecture)
        apt.update()
        version = _choose(apt, reason_against)
        root = home / "root"
        for package in [*apt.download("etcd-server"), *_client_package(apt)]:
            apt.unpack(package, root)
        _move_programs(root / "usr/bin", folder)
        return version
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _choose(apt: PrivateApt, reason_against: Callable[[Version], str | None]) -> Version:
    versions = available_versions(apt.madison("etcd-server"))
    if not versions:
        raise Unavailable("the suite has no package etcd-server")
    reason = reason_against(versions[0])
    if reason is not None:
        raise Unavailable(reason)
    return versions[0]


def _client_package(apt: PrivateApt) -> list[Path]:
    with contextlib.suppress(Unavailable):  # etcd works without its tools
        return apt.download("etcd-client")
    return []


def _move_programs(source: Path, folder: Path) -> None:
    for name in PROGRAMS:
        if (source / name).is_file():
            shutil.move(source / name, folder / name)
