"""etcd and its tools for a kit: from an official release with a pinned or given SHA-256, or from Debian's packages."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nodectl.etcd_binary import debian
from nodectl.etcd_binary import release as releases
from nodectl.kits.pieces.part import KitPart, sha256_of
from nodectl.kits.platforms import Platform
from nodestore.errors import Invalid, NodectlError, Unavailable
from nodestore.etcd.versions import OVERRIDE, Version, parse_version, why_too_old

_ARCHIVE_BYTES_MAX = 100 << 20
_APACHE = (
    "etcd {version}, https://github.com/etcd-io/etcd, Copyright 2014-2026 The etcd Authors.\n"
    "Licensed under the Apache License, Version 2.0: the text is in licences/python/cryptography.\n"
)


@dataclass(frozen=True, slots=True)
class EtcdChoice:
    """What the user asked for. file: a release archive. sha256: its checksum, if the release is not a pinned one."""

    file: Path | None = None
    sha256: str | None = None


def add_etcd(
    platform: Platform, choice: EtcdChoice, kit: Path, work: Path, progress: Callable[[str], None]
) -> list[KitPart]:
    """Put etcd's programs into the folder `etcd` of `kit`. Returns its parts: none if Windows goes without etcd.

    Raises Invalid if the file that the user gave is not usable, Unavailable if nothing can be downloaded for Linux.
    """
    folder = kit / "etcd"
    folder.mkdir()
    part: KitPart | None
    if choice.file is not None:
        part = _from_file(platform, choice.file, choice.sha256, folder)
    else:
        part = _from_release(platform, folder, progress) or _from_packages(platform, folder, work, progress)
    if part is None:
        folder.rmdir()
        return []
    notice = kit / "licences/etcd.txt"
    notice.parent.mkdir(parents=True, exist_ok=True)
    notice.write_text(_APACHE.format(version=part.version), encoding="ascii")
    return [part]


def _from_file(platform: Platform, file: Path, given_sha256: str | None, folder: Path) -> KitPart:
    try:
        if file.stat().st_size > _ARCHIVE_BYTES_MAX:
            raise Invalid(f"{file} is larger than {_ARCHIVE_BYTES_MAX >> 20} MiB: it is no release of etcd")
        content = file.read_bytes()
    except OSError as error:
        raise Invalid(f"{file} cannot be read: {error.strerror or error}") from None
    sha256 = hashlib.sha256(content).hexdigest()
    pinned = next((release for release in releases.RELEASES if release.sha256 == sha256), None)
    if pinned is None and given_sha256 is None:
        raise Invalid(
            f"{file} has the SHA-256 {sha256}, which is not pinned here: compare it with the SHA256SUMS of the "
            "release, then give it with --etcd-sha256"
        )
    if given_sha256 is not None and given_sha256.lower() != sha256:
        raise Invalid(f"{file} has the SHA-256 {sha256}, not {given_sha256}: download it again")
    version = pinned.version if pinned is not None else parse_version(file.name.removeprefix("etcd-"))
    if pinned is not None and (pinned.system, pinned.cpu) != (platform.system, platform.cpu):
        raise Invalid(f"{file} is etcd for {pinned.system}-{pinned.cpu}, not for {platform.name}")
    if version is None:
        raise Invalid(f"{file} must keep the name of the release, such as etcd-v3.5.33-{platform.name}.zip")
    _check_version(version, file)
    releases.unpack(content, folder, windows=platform.is_windows)
    if not (folder / f"etcd{platform.exe}").is_file():
        raise Invalid(f"{file} has no program etcd{platform.exe}: it is no release of etcd for {platform.name}")
    return KitPart("etcd", "etcd", str(version), file.name, sha256)


def _check_version(version: Version, file: Path) -> None:
    reason = None if os.environ.get(OVERRIDE) else why_too_old(version)
    if reason is not None:
        raise Invalid(f"{file}: etcd {version} is too old: {reason}")


def _from_release(platform: Platform, folder: Path, progress: Callable[[str], None]) -> KitPart | None:
    release = releases.choose_release(platform.system, platform.cpu)
    if release is None:
        return None
    base_url = os.environ.get("NODECTL_ETCD_MIRROR") or releases.OFFICIAL_URL
    progress(f"etcd: fetching {release.version} from {base_url}")
    try:
        releases.fetch(release, base_url, folder)
    except Unavailable as error:
        progress(f"etcd: skipped the official release: {error.message}")
        return None
    return KitPart("etcd", "etcd", str(release.version), release.path.rpartition("/")[2], release.sha256)


def _from_packages(platform: Platform, folder: Path, work: Path, progress: Callable[[str], None]) -> KitPart | None:
    if platform.debian is None:
        return None
    target = work / "etcd"
    target.mkdir()
    try:
        version = debian.fetch(target, _too_old, progress, platform.debian)
    except NodectlError as error:
        raise Unavailable(f"no etcd for {platform.name}: {error.message}; give a release archive with --etcd") from None
    for program in sorted(target.iterdir()):
        program.rename(folder / program.name)
    return KitPart("etcd", "etcd", str(version), "Debian package etcd-server", sha256_of(folder / "etcd"))


def _too_old(version: Version) -> str | None:
    reason = why_too_old(version)
    return reason and f"etcd {version} is too old: {reason}"
