"""The Python of Linux kits: Debian 12's packages, unpacked into one folder that can be anywhere.

apt verifies them with Debian's keyring. They have the security updates of Debian 12, for amd64 and arm64, and need
glibc 2.36 or newer and nothing else from the PC. Two changes make the folder independent of its place and of the PC:

- the program's RPATH names the kit's own libraries. It is not RUNPATH, because RPATH is also used for the libraries
  of extension modules. An environment variable would reach the programs that noded starts.
- the file `python3.11._pth` next to the program lists the only places of modules. With it Python reads no
  PYTHONPATH, no PYTHONHOME and no packages of the PC or of the user.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from nodectl.etcd_binary.debian import codename, machine_sources, mirrors, os_release
from nodectl.etcd_binary.private_apt import AptSource, PrivateApt, has_apt
from nodectl.kits.pieces.part import KitPart, sha256_of
from nodectl.kits.platforms import Platform
from nodestore.errors import NodectlError, Unavailable
from nodestore.processes import child_processes

SUITE = "bookworm"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_MIRROR, _SECURITY_MIRROR = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"
_PACKAGES = (
    "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libexpat1", "zlib1g", "libssl3", "libffi8",
    "libbz2-1.0", "liblzma5", "libsqlite3-0", "libuuid1", "libgcc-s1", "libstdc++6", "gcc-12-base",
)  # fmt: skip
"""gcc-12-base has the licence of libgcc and libstdc++."""
_PATCHELF = "patchelf"
_TOOL_TIMEOUT_S = 60.0

_LIBRARIES_NOT_WANTED = ("libexpatw.",)
_MODULES_NOT_WANTED = (
    "_crypt.", "_curses", "_dbm.", "_test", "_ctypes_test.", "_xxtestfuzz.", "nis.", "ossaudiodev.", "readline.",
    "xxlimited",
)  # fmt: skip
"""Beginnings of the names of extension modules: tests, and those whose libraries the kit does not have."""
_FOLDERS_NOT_WANTED = ("__pycache__", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tkinter", "turtledemo")


def add_python(platform: Platform, kit: Path, work: Path, progress: Callable[[str], None]) -> tuple[str, list[KitPart]]:
    """Put Python into `kit`. Returns its full version and its parts. Raises Unavailable if Debian cannot be reached."""
    if not has_apt() or not Path(_KEYRING).is_file():
        raise Unavailable(
            f"a Linux kit is built on Debian or a derivative: it needs apt-get, dpkg-deb and {_KEYRING} "
            "(package debian-archive-keyring)"
        )
    root, apt = work / "debian", PrivateApt(work / "apt", _sources(), platform.debian)
    progress(f"Python: fetching Debian's packages for {platform.debian}")
    apt.update()
    packages = apt.download(*_PACKAGES)
    if len(packages) != len(_PACKAGES):
        raise Unavailable(f"Debian {SUITE} has only {len(packages)} of the {len(_PACKAGES)} packages of Python")
    for package in packages:
        apt.unpack(package, root)
    _copy(root, kit, platform)
    _set_rpath(kit / platform.python_program, _patchelf(work, apt if _is_native(platform) else None))
    _copy_licences(root, kit)
    parts = [_part(package) for package in packages]
    return next(part.version for part in parts if part.name == _PACKAGES[0]).partition("-")[0], parts


def _sources() -> list[AptSource]:
    """Debian 12 and its security updates, from the mirrors that this PC uses if it runs Debian 12."""
    machine = machine_sources() if codename(os_release()) == SUITE else []
    security = [source.uri for source in machine if source.suite == f"{SUITE}-security"]
    return [
        AptSource([*mirrors(machine, SUITE), _MIRROR][0], SUITE, ("main",), _KEYRING),
        AptSource([*security, _SECURITY_MIRROR][0], f"{SUITE}-security", ("main",), _KEYRING),
    ]


def _part(package: Path) -> KitPart:
    name, version, *_ = package.name.removesuffix(".deb").split("_")
    return KitPart("debian", name, version.replace("%3a", ":"), package.name, sha256_of(package))


def _copy(root: Path, kit: Path, platform: Platform) -> None:
    program = kit / platform.python_program
    program.parent.mkdir(parents=True)
    shutil.copyfile(root / "usr/bin" / program.name, program)
    program.chmod(0o755)
    _copy_library(root / "usr/lib" / program.name, kit / f"python/lib/{program.name}")
    for folder in (root / "lib", root / "usr/lib"):
        for library in sorted(folder.glob("*-linux-gnu/lib*.so.*")):
            # Programs name a library by its short name, which is a link to the file or the file itself.
            if not library.name.startswith(_LIBRARIES_NOT_WANTED) and _is_short(library):
                shutil.copyfile(library, kit / "python/lib" / library.name)
    lines = [f"../lib/{program.name}", f"../lib/{program.name}/lib-dynload", f"../lib/{program.name}/site-packages"]
    program.with_name(f"{program.name}._pth").write_text("\n".join(lines) + "\n", encoding="ascii")


def _is_short(library: Path) -> bool:
    return library.is_symlink() or not any(
        other.is_symlink() and other.resolve() == library for other in library.parent.iterdir()
    )


def _copy_library(source: Path, target: Path) -> None:
    def not_wanted(folder: str, names: list[str]) -> list[str]:
        inside = Path(folder)
        return [name for name in names if _is_left_out(inside / name)]

    shutil.copytree(source, target, ignore=not_wanted, symlinks=False)


def _is_left_out(path: Path) -> bool:
    if path.parent.name == "lib-dynload":
        return path.name.startswith(_MODULES_NOT_WANTED)
    # Debian's sitecustomize.py is a link to a file in /etc.
    return path.name in _FOLDERS_NOT_WANTED or path.name == "sitecustomize.py" or path.name.startswith("config-3")


def _is_native(platform: Platform) -> bool:
    """Whether the packages for the platform run on this PC."""
    done = child_processes.run(["dpkg", "--print-architecture"], timeout_s=_TOOL_TIMEOUT_S)
    return done.stdout.strip() == platform.debian


def _patchelf(work: Path, apt: PrivateApt | None) -> Path:
    """The program patchelf for this PC, fetched and not installed. It changes programs of other platforms too."""
    tools = work / "tools"
    if apt is None:
        apt = PrivateApt(work / "tools-apt", _sources())
        apt.update()
    for package in apt.download(_PATCHELF):
        apt.unpack(package, tools)
    return tools / "usr/bin/patchelf"


def _set_rpath(program: Path, patchelf: Path) -> None:
    argv = [str(patchelf), "--force-rpath", "--set-rpath", "$ORIGIN/../lib", str(program)]
    done = child_processes.run(argv, timeout_s=_TOOL_TIMEOUT_S)
    if done.returncode != 0:
        raise NodectlError(f"patchelf failed: {done.stderr.strip()}")


def _copy_licences(root: Path, kit: Path) -> None:
    for package in _PACKAGES:
        source = root / "usr/share/doc" / package / "copyright"
        if source.is_file():  # a link to another package's where both come from the same source
            target = kit / "licences/debian" / f"{package}.txt"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
