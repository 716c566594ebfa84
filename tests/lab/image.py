"""What the disk of a PC of the lab has in addition to this machine's root file system."""

from __future__ import annotations

import site
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
BINDS = "binds"
"""Name of the file with the bind mounts of a PC."""
EMPTIED = ("/etc/systemd/system", "/var/log/journal")
"""Directories in which a PC has nothing of this machine."""
MASKED = (
    "systemd-udevd.service", "systemd-udev-trigger.service", "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket", "systemd-logind.service", "dbus.service", "dbus.socket", "getty.target",
    "getty@.service", "console-getty.service", "systemd-timesyncd.service", "systemd-networkd.service",
    "systemd-resolved.service", "systemd-modules-load.service", "systemd-sysctl.service", "systemd-random-seed.service",
    "systemd-pcrphase.service", "systemd-remount-fs.service", "systemd-update-utmp.service",
    "systemd-user-sessions.service", "sys-kernel-config.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "dev-hugepages.mount", "dev-mqueue.mount", "proc-sys-fs-binfmt_misc.automount", "systemd-binfmt.service",
    "apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "fstrim.timer", "man-db.timer",
    "dpkg-db-backup.timer", "systemd-tmpfiles-clean.timer", "remote-fs.target",
)  # fmt: skip
"""Units that a namespace cannot run, or that only take time."""
_PYTHON, _NODECTL = "/opt/python", "/opt/nodectl"
_LIBRARIES = "/etc/ld.so.conf.d/00-python.conf"
"""The Python of this machine may find its library only by an absolute path, which services cannot read."""
_PROGRAMS = {"nodectl": "nodectl.__main__", "masterd": "masterd.__main__", "noded": "noded.__main__"}


@dataclass(frozen=True, kw_only=True)
class Image:
    """`files`: contents by path; `links`: targets by path; `binds`: what of this machine is seen at a path, by path."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    binds: Mapping[str, Path] = field(default_factory=dict)

    def with_more(self, other: Image) -> Image:
        return Image(
            files={**self.files, **other.files},
            links={**self.links, **other.links},
            binds={**self.binds, **other.binds},
        )


def nodectl_image(etcd: Path | None = None) -> Image:
    """nodectl as this checkout has it, in /opt/nodectl, with a Python of its own. `etcd`: the folder of its programs.

    The Python of a checkout may be where only root can read, and services run as other users.
    """
    python = f"{_PYTHON}/bin/{Path(sys.executable).resolve().name}"
    packages = next(path for path in site.getsitepackages() if path.startswith(sys.prefix))
    libraries = Path(packages).relative_to(sys.prefix)
    scripts = {
        f"{_NODECTL}/bin/{name}": f"#!{_NODECTL}/bin/python\nimport sys\nfrom {module} import main\nsys.exit(main())\n"
        for name, module in _PROGRAMS.items()
    }
    configuration = f"home = {_PYTHON}/bin\ninclude-system-site-packages = false\n"
    binds = {_PYTHON: Path(sys.base_prefix), f"{_NODECTL}/{libraries}": Path(packages)}
    if etcd is not None:
        binds |= {f"/usr/local/bin/{name}": (etcd / name).resolve() for name in ("etcd", "etcdctl", "etcdutl")}
    texts = {**scripts, f"{_NODECTL}/pyvenv.cfg": configuration, _LIBRARIES: f"{_PYTHON}/lib\n"}
    return Image(
        files={path: text.encode() for path, text in texts.items()},
        links={f"{_NODECTL}/bin/{name}": python for name in ("python", "python3")},
        binds=binds,
    )
