"""Finds the wheels that a platform needs, downloads them with the hashes of requirements.lock, and unpacks them.

The lock holds the hashes for all platforms. What is needed is found from the metadata of the wheels: those given (ours
and the applications'), then what they require on that platform, and so on. pip itself would evaluate the markers for
the PC on which it runs.
"""

from __future__ import annotations

import email.parser
import email.policy
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from nodectl.kits.lock import Pin, normalized
from nodectl.kits.pieces.part import KitPart, sha256_of
from nodectl.kits.platforms import Platform
from nodestore.errors import Invalid, NodectlError, Unavailable
from nodestore.processes import child_processes

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_PIP_TIMEOUT_S = 300.0
_ROUNDS_MAX = 20
_METADATA_BYTES_MAX = 4 << 20

Fetch = Callable[[Sequence[Pin]], Iterable[Path]]


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel file, and what its metadata says. extras: which of its optional parts are wanted is not decided here."""

    file: Path
    name: str
    version: str
    requires: tuple[str, ...]

    def part(self, kind: str) -> KitPart:
        return KitPart(kind, self.name, self.version, self.file.name, sha256_of(self.file))


def read_wheel(file: Path) -> Wheel:
    """Read the metadata of a wheel. Raises Invalid if it is not a wheel."""
    if file.suffix != ".whl" or file.name.count("-") < 4:
        raise Invalid(f"{file} is not a wheel: its name must be NAME-VERSION-PYTHON-ABI-PLATFORM.whl")
    try:
        with zipfile.ZipFile(file) as archive:
            inside = next(name for name in archive.namelist() if _is_metadata(name))
            with archive.open(inside) as stream:
                text = stream.read(_METADATA_BYTES_MAX).decode("utf-8", "replace")
    except OSError as error:
        raise Invalid(f"{file} cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, StopIteration, EOFError, ValueError):
        raise Invalid(f"{file} is not a wheel, or it is damaged") from None
    fields = email.parser.HeaderParser(policy=email.policy.compat32).parsestr(text)
    name, version = str(fields.get("Name", "")), str(fields.get("Version", ""))
    if not name or not version:
        raise Invalid(f"{file} has no name or version in its metadata")
    return Wheel(file, normalized(name), version, tuple(map(str, fields.get_all("Requires-Dist", []))))


def _is_metadata(name: str) -> bool:
    return name.count("/") == 1 and name.endswith(".dist-info/METADATA")


def check_fits(wheel: Wheel, platform: Platform) -> None:
    """Raise Invalid if a wheel that was given does not run on the platform."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    try:
        tags = parse_wheel_filename(wheel.file.name)[3]
    except InvalidWheelFilename as error:
        raise Invalid(f"{wheel.file}: {error}") from None
    if not any(_fits(tag.interpreter, tag.abi, tag.platform, platform) for tag in tags):
        raise Invalid(f"{wheel.file.name} is not for {platform.name} with Python {platform.python}: give one that is")


def _fits(interpreter: str, abi: str, place: str, platform: Platform) -> bool:
    minor = int(platform.python.partition(".")[2])
    old = {f"{kind}3{number}" for kind in ("cp", "py") for number in range(2, minor + 1)} | {"py3"}
    is_new_enough = interpreter in old if abi in ("none", "abi3") else interpreter == platform.abi
    return is_new_enough and abi in ("none", "abi3", platform.abi) and place in ("any", *platform.wheel_platforms)


class Closure:
    """Finds all wheels that the given ones need on a platform.

    `fetch` gets the wheels of pins. Raises Invalid if something that is required is neither given nor in the lock.
    """

    def __init__(self, platform: Platform, python_full: str, lock: Mapping[str, Sequence[Pin]], fetch: Fetch) -> None:
        self._environment = dict(platform.markers(python_full))
        self._lock = lock
        self._fetch = fetch
        self._wheels: dict[str, Wheel] = {}
        self._extras: dict[str, set[str]] = {}

    def collect(self, given: Sequence[Wheel]) -> list[Wheel]:
        """The given wheels and all that they need, sorted by name."""
        for wheel in given:
            if wheel.name in self._wheels:
                raise Invalid(f"{wheel.file.name} and {self._wheels[wheel.name].file.name} are the same package")
            self._wheels[wheel.name] = wheel
        for _ in range(_ROUNDS_MAX):
            missing = self._missing()
            if not missing:
                return sorted(self._wheels.values(), key=lambda wheel: wheel.name)
            for file in self._fetch(missing):
                wheel = read_wheel(file)
                self._wheels[wheel.name] = wheel
        raise NodectlError("the requirements of the wheels have no end")

    def _missing(self) -> list[Pin]:
        wanted: dict[str, Pin] = {}
        for wheel in sorted(self._wheels.values(), key=lambda each: each.name):
            for requirement in self._requirements(wheel):
                name = normalized(requirement.name)
                self._extras.setdefault(name, set()).update(requirement.extras)
                if name in self._wheels:
                    self._check_version(wheel, requirement, self._wheels[name].version)
                elif name not in wanted:
                    wanted[name] = self._pin(wheel, requirement)
        return list(wanted.values())

    def _requirements(self, wheel: Wheel) -> list[Requirement]:
        """What the wheel requires in this environment, with the extras that others asked of it."""
        from packaging.requirements import InvalidRequirement, Requirement

        try:
            requirements = [Requirement(text) for text in wheel.requires]
        except InvalidRequirement as error:
            raise Invalid(f"{wheel.file.name} has a requirement that cannot be read: {error}") from None
        extras = ["", *sorted(self._extras.get(wheel.name, ()))]
        return [each for each in requirements if each.marker is None or self._holds(each.marker, extras)]

    def _holds(self, marker: object, extras: Sequence[str]) -> bool:
        return any(marker.evaluate({**self._environment, "extra": extra}) for extra in extras)  # type: ignore[attr-defined]

    def _check_version(self, wheel: Wheel, requirement: Requirement, version: str) -> None:
        if not requirement.specifier.contains(version, prereleases=True):
            raise Invalid(f"{wheel.name} {wheel.version} requires {requirement}, but the kit has version {version}")

    def _pin(self, wheel: Wheel, requirement: Requirement) -> Pin:
        from packaging.markers import Marker

        for pin in self._lock.get(normalized(requirement.name), ()):
            if not pin.marker or Marker(pin.marker).evaluate(self._environment):
                self._check_version(wheel, requirement, pin.version)
                return pin
        raise Invalid(
            f"{wheel.name} {wheel.version} requires {requirement}, which is neither part of nodectl nor given: "
            f"add its wheel with --app"
        )


class PipDownload:
    """Downloads wheels of pins with pip, which checks their hashes, into `folder`."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self._platform, self._folder = platform, folder
        self._round = 0

    def __call__(self, pins: Sequence[Pin]) -> list[Path]:
        self._round += 1
        target = self._folder / str(self._round)
        target.mkdir(parents=True)
        requirements = target / "requirements.txt"
        requirements.write_text("\n".join(pin.requirement() for pin in pins) + "\n", encoding="ascii")
        self._pip(target, requirements)
        return sorted(target.glob("*.whl"))

    def _pip(self, target: Path, requirements: Path) -> None:
        platform = self._platform
        argv = [
            sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps",
            "--only-binary=:all:", "--require-hashes", "--implementation", "cp",
            "--python-version", platform.python, "--abi", platform.abi, "--abi", "abi3", "--abi", "none",
            *(word for tag in platform.wheel_platforms for word in ("--platform", tag)),
            "--dest", str(target), "-r", str(requirements),
        ]  # fmt: skip
        done = child_processes.run(argv, timeout_s=_PIP_TIMEOUT_S)
        if done.returncode != 0:
            raise Unavailable(f"pip cannot download the wheels for {platform.name}: {_pip_error(done.stderr)}")


def _pip_error(output: str) -> str:
    lines = [line for line in output.splitlines() if line.startswith("ERROR:")] or output.strip().splitlines()
    return lines[-1].removeprefix("ERROR:").strip() if lines else "it failed without a message"


def build_own_wheel(source: Path, folder: Path) -> Path:
    """Build nodectl's wheel from a clone of the project. Raises Unavailable if pip fails."""
    folder.mkdir(parents=True)
    argv = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps",
        "--wheel-dir", str(folder), str(source),
    ]  # fmt: skip
    done = child_processes.run(argv, timeout_s=_PIP_TIMEOUT_S)
    found = sorted(folder.glob("nodectl-*.whl"))
    if done.returncode != 0 or not found:
        raise Unavailable(f"pip cannot build the wheel of {source}: {_pip_error(done.stderr)}")
    return found[0]


def unpack(wheel: Wheel, site_packages: Path) -> None:
    """Unpack a wheel's packages. Its scripts, headers and data are left out: a kit has launchers of its own."""
    try:
        with zipfile.ZipFile(wheel.file) as archive:
            for entry in archive.infolist():
                path = _target(entry.filename)
                if path is not None and not entry.is_dir():
                    file = site_packages / path
                    file.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(entry) as source, file.open("wb") as target:
                        shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, EOFError, ValueError):
        raise Invalid(f"{wheel.file} is damaged") from None


def _target(name: str) -> PurePosixPath | None:
    """Where a file of a wheel belongs below site-packages. None if it is left out. Raises Invalid if outside."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise Invalid(f"a wheel has a file with the path {name!r}, which is outside of its folder")
    if not path.parts[0].endswith(".data"):
        return path
    is_library = len(path.parts) > 2 and path.parts[1] in ("purelib", "platlib")
    return PurePosixPath(*path.parts[2:]) if is_library else None
