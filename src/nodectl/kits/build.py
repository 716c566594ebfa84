"""Builds a kit: gets each piece, writes the manifest and the checksums, and packs the folder.

Nothing is written but the kit itself and a private folder for what is fetched, which is removed at the end.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nodectl
from nodectl.kits.archive import write_archive
from nodectl.kits.lock import parse_lock
from nodectl.kits.manifest import MANIFEST, SUMS, KitManifest, parts_of, sums_text
from nodectl.kits.pieces import linux_python, windows_python
from nodectl.kits.pieces.etcd_programs import EtcdChoice, add_etcd
from nodectl.kits.pieces.launchers import add_launchers
from nodectl.kits.pieces.part import KitPart
from nodectl.kits.pieces.wheels import Closure, PipDownload, Wheel, build_own_wheel, check_fits, read_wheel, unpack
from nodectl.kits.pieces.windows_python import PythonChoice
from nodectl.kits.platforms import Platform
from nodectl.kits.readme import readme_text
from nodestore.errors import Invalid, NodectlError
from nodestore.processes import child_processes
from nodestore.services.shipped_units import shipped_units

BYTES_MAX = 60_000_000
_GIT_TIMEOUT_S = 20.0
_LICENCE_NAMES = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "AUTHORS")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class KitWish:
    """What kit to build. apps: wheels. wheel, lock: nodectl's own; if not given, they are taken from the clone."""

    platform: Platform
    apps: Sequence[Path] = ()
    wheel: Path | None = None
    lock: Path | None = None
    etcd: EtcdChoice = field(default_factory=EtcdChoice)
    python: PythonChoice = field(default_factory=PythonChoice)
    target: Path | None = None


@dataclass(frozen=True, slots=True)
class BuiltKit:
    """A kit that was built."""

    file: Path
    manifest: KitManifest
    size_bytes: int


def build(wish: KitWish, progress: Progress) -> BuiltKit:
    """Build a kit. `progress` gets one line for each step. Raises NodectlError, and then leaves no file behind."""
    _check_packaging()
    with tempfile.TemporaryDirectory(prefix="nodectl-kit-") as folder:
        return _Build(wish, Path(folder), progress).run()


def _check_packaging() -> None:
    try:
        import packaging  # noqa: F401
    except ImportError:
        raise NodectlError("nodectl kit build needs the package packaging: pip install 'nodectl[kit]'") from None


class _Build:
    def __init__(self, wish: KitWish, work: Path, progress: Progress) -> None:
        self._wish, self._work, self._progress = wish, work, progress
        self._source = source_folder()

    def run(self) -> BuiltKit:
        wish, platform = self._wish, self._wish.platform
        if wish.target is not None and not wish.target.absolute().parent.is_dir():
            raise Invalid(f"{wish.target} cannot be written: there is no directory {wish.target.parent}")
        apps = [read_wheel(file) for file in wish.apps]
        for app in apps:
            check_fits(app, platform)
        own = read_wheel(wish.wheel or self._own_wheel())
        commit = "" if wish.wheel is not None or self._source is None else _commit(self._source)
        release = _release(own.version, commit)
        kit = self._work / f"nodectl-{release}-{platform.name}"
        kit.mkdir()
        python, parts = self._add_python(kit)
        parts += self._add_wheels(kit, own, apps, python)
        etcd = add_etcd(platform, wish.etcd, kit, self._work, self._progress)
        manifest = KitManifest(
            release=release, nodectl=own.version, commit=commit, platform=platform.name, python=python,
            etcd=etcd[0].version if etcd else None, apps=tuple(f"{app.name} {app.version}" for app in apps),
            parts=parts_of([*parts, *etcd]),
        )  # fmt: skip
        self._add_texts(kit, manifest)
        return self._pack(kit, manifest)

    def _own_wheel(self) -> Path:
        if self._source is None:
            raise Invalid("this nodectl does not run from a clone: give its wheel with --wheel")
        self._progress("nodectl: building its wheel")
        return build_own_wheel(self._source, self._work / "own")

    def _add_python(self, kit: Path) -> tuple[str, list[KitPart]]:
        platform = self._wish.platform
        if platform.is_windows:
            return windows_python.add_python(platform, self._wish.python, kit, self._work, self._progress)
        return linux_python.add_python(platform, kit, self._work, self._progress)

    def _add_wheels(self, kit: Path, own: Wheel, apps: Sequence[Wheel], python: str) -> list[KitPart]:
        platform, lock = self._wish.platform, self._lock()
        self._progress(f"wheels: fetching those for {platform.name}, by the hashes in {lock.name}")
        pins = parse_lock(lock.read_text("utf-8"), str(lock))
        closure = Closure(platform, python, pins, PipDownload(platform, self._work / "wheels"))
        wheels = closure.collect([own, *apps])
        site_packages = kit / platform.site_packages
        for wheel in wheels:
            unpack(wheel, site_packages)
        _copy_wheel_licences(site_packages, kit / "licences/python")
        names = {app.name for app in apps}
        return [wheel.part("app" if wheel.name in names else "wheel") for wheel in wheels]

    def _lock(self) -> Path:
        lock = self._wish.lock or (self._source / "requirements.lock" if self._source is not None else None)
        if lock is None:
            raise Invalid("this nodectl does not run from a clone: give its requirements.lock with --lock")
        if not lock.is_file():
            raise Invalid(f"there is no file {lock}")
        return lock

    def _add_texts(self, kit: Path, manifest: KitManifest) -> None:
        platform = self._wish.platform
        add_launchers(platform, kit)
        if not platform.is_windows:
            for path, text in shipped_units().items():
                unit = kit / "services" / path.rpartition("/")[2]
                unit.parent.mkdir(exist_ok=True)
                unit.write_text(text, encoding="utf-8")
        newline = "\r\n" if platform.is_windows else "\n"
        (kit / "README.txt").write_text(readme_text(manifest, platform), "utf-8", newline=newline)
        (kit / MANIFEST).write_text(manifest.text(), "ascii", newline="\n")
        (kit / SUMS).write_text(sums_text(kit), "utf-8", newline="\n")

    def _pack(self, kit: Path, manifest: KitManifest) -> BuiltKit:
        target = self._wish.target or Path(f"{kit.name}{self._wish.platform.ending}")
        self._progress(f"kit: writing {target}")
        try:
            write_archive(kit, target)
            size_bytes = target.stat().st_size
        except OSError as error:
            raise NodectlError(f"{target} cannot be written: {error.strerror or error}") from None
        return BuiltKit(target, manifest, size_bytes)


def source_folder() -> Path | None:
    """The clone from which this nodectl runs, or None."""
    folder = Path(nodectl.__file__).resolve().parents[2]
    return folder if (folder / "pyproject.toml").is_file() and (folder / "requirements.lock").is_file() else None


def _release(version: str, commit: str) -> str:
    """Name of what is in the kit: two kits with different sources have different names."""
    head, _, changed = commit.partition("-")
    return "-".join(filter(None, (version, head[:8], changed)))


def _commit(source: Path) -> str:
    """The commit of the clone, with `-changed` behind it if files were changed; empty if there is no git."""
    if shutil.which("git") is None or not (source / ".git").exists():
        return ""
    head = child_processes.run(["git", "-C", str(source), "rev-parse", "HEAD"], timeout_s=_GIT_TIMEOUT_S)
    status = child_processes.run(
        ["git", "-C", str(source), "status", "--porcelain", "--untracked-files=no"], timeout_s=_GIT_TIMEOUT_S
    )
    if head.returncode != 0:
        return ""
    return head.stdout.strip() + ("-changed" if status.stdout.strip() else "")


def _copy_wheel_licences(site_packages: Path, target: Path) -> None:
    for file in sorted(site_packages.glob("*.dist-info/**/*")):
        if file.is_file() and file.name.upper().startswith(_LICENCE_NAMES):
            package = file.relative_to(site_packages).parts[0].partition("-")[0]
            copy = target / package / file.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
