"""The platforms for which kits are built: which Python, which wheels fit, and where files are in a kit. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nodestore.errors import Invalid

_GLIBC_MINOR, _OLDEST_GLIBC_MINOR = 36, 5
"""The minor version of the glibc that the Python of Linux kits needs (Debian 12), and of the oldest wheels."""


@dataclass(frozen=True, slots=True)
class Platform:
    """One platform of kits.

    python: major and minor version. debian: Debian's name of the architecture. machine: `platform.machine()` there.
    """

    name: str
    system: str
    cpu: str
    machine: str
    python: str
    wheel_platforms: tuple[str, ...]
    debian: str | None = None

    @property
    def is_windows(self) -> bool:
        return self.system == "windows"

    @property
    def ending(self) -> str:
        """Ending of a kit's file name."""
        return ".zip" if self.is_windows else ".tar.gz"

    @property
    def abi(self) -> str:
        return f"cp{self.python.replace('.', '')}"

    @property
    def site_packages(self) -> str:
        """Where wheels are unpacked, below the kit's folder."""
        return "python/Lib/site-packages" if self.is_windows else f"python/lib/python{self.python}/site-packages"

    @property
    def python_program(self) -> str:
        """The Python interpreter, below the kit's folder."""
        return "python/python.exe" if self.is_windows else f"python/bin/python{self.python}"

    @property
    def exe(self) -> str:
        return ".exe" if self.is_windows else ""

    def markers(self, python_full: str) -> Mapping[str, str]:
        """The variables of environment markers there (PEP 508). `python_full`: such as 3.11.2."""
        return MappingProxyType(
            {
                "implementation_name": "cpython",
                "implementation_version": python_full,
                "os_name": "nt" if self.is_windows else "posix",
                "platform_machine": self.machine,
                "platform_python_implementation": "CPython",
                "platform_release": "",
                "platform_system": "Windows" if self.is_windows else "Linux",
                "platform_version": "",
                "python_full_version": python_full,
                "python_version": self.python,
                "sys_platform": "win32" if self.is_windows else "linux",
            }
        )


def _linux(cpu: str, machine: str, debian: str) -> Platform:
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(_GLIBC_MINOR, _OLDEST_GLIBC_MINOR - 1, -1)]
    tags += [f"manylinux2014_{machine}", f"manylinux2010_{machine}", f"manylinux1_{machine}", f"linux_{machine}"]
    return Platform(f"linux-{cpu}", "linux", cpu, machine, "3.11", tuple(tags), debian)


PLATFORMS: Mapping[str, Platform] = MappingProxyType(
    {
        platform.name: platform
        for platform in (
            _linux("amd64", "x86_64", "amd64"),
            _linux("arm64", "aarch64", "arm64"),
            Platform("windows-amd64", "windows", "amd64", "AMD64", "3.13", ("win_amd64",)),
        )
    }
)


def platform_named(name: str) -> Platform:
    """The platform with this name. Raises Invalid if there is none."""
    found = PLATFORMS.get(name)
    if found is None:
        raise Invalid(f"--platform {name}: there are kits for {', '.join(PLATFORMS)}")
    return found
