"""Finds an etcd server that is new enough, or downloads one. `python -m nodectl.etcd_binary.find` prints its folder.

If NODECTL_ETCD_DIR is set, only that directory is used. Otherwise the sources are, in this order: PATH; the cache
(NODECTL_CACHE_DIR); the official release, or its mirror in NODECTL_ETCD_MIRROR; the distribution's packages.
NODECTL_ETCD_VERSION requires one version. NODECTL_ALLOW_OLD_ETCD=1 accepts any version.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from nodectl.etcd_binary import debian
from nodectl.etcd_binary import release as etcd_release
from nodectl.etcd_binary.release import PROGRAMS
from nodestore.errors import Invalid, NodectlError, Unavailable
from nodestore.etcd.versions import OVERRIDE, Version, parse_version, why_too_old
from nodestore.processes import child_processes

_VERSION_TIMEOUT_S = 20.0
_INSTALL_ATTEMPTS_MAX = 5
_EXE = ".exe" if sys.platform == "win32" else ""

ReportProgress = Callable[[str], None]


@dataclass(frozen=True)
class EtcdBinary:
    """A usable etcd program, and the tools in its folder, if any. `source` describes where it was found."""

    server: Path
    ctl: Path | None
    utl: Path | None
    version: tuple[int, int, int]
    source: str


class _SourceUnusable(NodectlError):
    """A source has no usable etcd. The next source is tried."""


def _ignore_progress(line: str) -> None:
    pass


def find_etcd(progress: ReportProgress = _ignore_progress) -> EtcdBinary:
    """Return the first usable etcd. If none is on this PC, download one, which may take minutes.

    `progress` is called with one line for each source that is skipped and each download. Raises Unavailable, with what
    was tried and what to do, if there is none.
    """
    return _Finder(os.environ, progress).find()


def cache_folder(environ: Mapping[str, str]) -> Path:
    """The folder for downloaded programs: NODECTL_CACHE_DIR, else below the user's cache directory."""
    if named := environ.get("NODECTL_CACHE_DIR"):
        return Path(named).absolute()
    if sys.platform == "win32":
        local = environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "nodectl" / "cache"
    xdg = environ.get("XDG_CACHE_HOME")
    return (Path(xdg) if xdg else Path.home() / ".cache") / "nodectl"


class _Finder:
    def __init__(self, environ: Mapping[str, str], progress: ReportProgress) -> None:
        self._environ = environ
        self._progress = progress
        self._cache = cache_folder(environ) / "etcd"
        self._any_version = bool(environ.get(OVERRIDE))
        self._wanted = self._wanted_version()

    def _wanted_version(self) -> Version | None:
        text = self._environ.get("NODECTL_ETCD_VERSION")
        if not text:
            return None
        version = parse_version(text)
        if version is None:
            raise Invalid(f"NODECTL_ETCD_VERSION={text} is not a version such as 3.5.33")
        return version

    def find(self) -> EtcdBinary:
        if named := self._environ.get("NODECTL_ETCD_DIR"):
            try:
                return self._examine(Path(named), f"NODECTL_ETCD_DIR={named}")
            except _SourceUnusable as error:  # named explicitly, so no other one may take its place
                raise Unavailable(f"NODECTL_ETCD_DIR={named}: {error}") from None
        tried = []
        for where, attempt in (
            ("PATH", self._from_path),
            ("cache", self._from_cache),
            ("release", self._from_release),
            ("packages", self._from_packages),
        ):
            try:
                return attempt()
            except (NodectlError, OSError) as error:
                tried.append(f"  {where}: {error}")
                self._progress(f"etcd: skipped source {where}: {error}")
        raise Unavailable(
            "no usable etcd found. Tried:\n" + "\n".join(tried) + "\nInstall etcd 3.5.30 or newer "
            "and name its directory in NODECTL_ETCD_DIR, or name a mirror of etcd's releases in NODECTL_ETCD_MIRROR."
        )

    def reason_against(self, version: Version) -> str | None:
        """Why `version` is not usable; None if it is."""
        if self._wanted is not None and version != self._wanted:
            return f"etcd {version} is not version {self._wanted}, which NODECTL_ETCD_VERSION requires"
        reason = None if self._any_version else why_too_old(version)
        return reason and f"etcd {version} is too old: {reason}"

    def _examine(self, folder: Path, source: str) -> EtcdBinary:
        """Run the etcd in `folder` for its version. Raises _SourceUnusable if it is missing, broken or too old."""
        folder = folder.absolute()
        server = folder / f"etcd{_EXE}"
        if not server.is_file():
            raise _SourceUnusable(f"there is no etcd in {folder}")
        try:
            done = child_processes.run([server, "--version"], timeout_s=_VERSION_TIMEOUT_S)
        except NodectlError as error:
            raise _SourceUnusable(f"{server} does not run: {error}") from None
        version = parse_version(done.stdout)
        if done.returncode != 0 or version is None:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise _SourceUnusable(
                f"{server} does not print its version: {lines[-1] if lines else f'exit code {done.returncode}'}"
            )
        if reason := self.reason_against(version):
            raise _SourceUnusable(f"{server}: {reason}")
        ctl, utl = (path if path.is_file() else None for path in (folder / f"etcdctl{_EXE}", folder / f"etcdutl{_EXE}"))
        return EtcdBinary(server, ctl, utl, version, source)

    def _from_path(self) -> EtcdBinary:
        found = shutil.which("etcd", path=self._environ.get("PATH", os.defpath))
        if found is None:
            raise _SourceUnusable("there is no etcd")
        return self._examine(Path(found).parent, "PATH")

    def _from_cache(self) -> EtcdBinary:
        folders = sorted(self._cache.glob("[0-9]*"), key=_version_key, reverse=True)
        reasons = []
        for folder in folders:
            try:
                return self._examine(folder, f"cache {folder}")
            except _SourceUnusable as error:
                reasons.append(str(error))
        raise _SourceUnusable("; ".join(reasons) or f"nothing in {self._cache}")

    def _from_release(self) -> EtcdBinary:
        system, machine = platform.system(), platform.machine()
        release = etcd_release.choose_release(system, machine, self._wanted)
        if release is None:
            raise _SourceUnusable(f"no release {self._wanted or ''} with a pinned checksum for {system} {machine}")
        base_url = self._environ.get("NODECTL_ETCD_MIRROR") or etcd_release.OFFICIAL_URL
        self._progress(f"etcd: fetching {release.version} from {base_url}")
        with self._temporary_folder() as folder:
            etcd_release.fetch(release, base_url, folder)
            return self._install(folder, f"{release.version}-{release.system}-{release.cpu}", base_url)

    def _from_packages(self) -> EtcdBinary:
        with self._temporary_folder() as folder:
            version = debian.fetch(folder, self.reason_against, self._progress)
            return self._install(folder, f"{version}-package", "the distribution's packages")

    @contextlib.contextmanager
    def _temporary_folder(self) -> Iterator[Path]:
        """A new folder in the cache for this process alone. It is removed at the end, unless it was installed."""
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            home = Path(tempfile.mkdtemp(prefix="new-", dir=self._cache))
        except OSError as error:
            raise _SourceUnusable(
                f"cannot write to {self._cache} ({error.strerror}): name another folder in NODECTL_CACHE_DIR"
            ) from None
        try:
            folder = home / "etcd"
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(home, ignore_errors=True)

    def _install(self, folder: Path, name: str, source: str) -> EtcdBinary:
        """Rename `folder` to `name` in the cache, after its etcd has printed its version.

        If another process has created that folder, its etcd is used. A folder whose etcd is not usable is moved away.
        """
        self._examine(folder, source)
        target = self._cache / name
        for attempt in range(_INSTALL_ATTEMPTS_MAX):
            with contextlib.suppress(OSError):
                folder.rename(target)
                self._progress(f"etcd: {name} installed in {target}")
                break
            with contextlib.suppress(_SourceUnusable):
                return self._examine(target, source)
            with contextlib.suppress(OSError):
                target.rename(folder.parent / f"broken{attempt}")
        return self._examine(target, source)


def _version_key(folder: Path) -> Version:
    return parse_version(folder.name) or Version(0, 0, 0)


def main() -> int:
    """Print the folder on stdout, progress and errors on stderr. Returns 0 or the error's exit code."""
    child_processes.utf8_stdio()
    try:
        found = find_etcd(lambda line: _print_line(sys.stderr, line))
    except NodectlError as error:
        _print_line(sys.stderr, f"etcd: {error.message}")
        return error.exit_code
    tools = ", ".join(name for name, path in zip(PROGRAMS, (found.server, found.ctl, found.utl), strict=True) if path)
    _print_line(sys.stderr, f"etcd: {Version(*found.version)} from {found.source}: {tools}")
    _print_line(sys.stdout, str(found.server.parent))
    return 0


def _print_line(stream: TextIO, line: str) -> None:
    stream.write(f"{line}\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
