"""A root directory that has libc, a shell, the user root and nothing else, in namespaces without network."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from nodectl.etcd_binary.private_apt import AptSource, PrivateApt

_SOURCE = AptSource(
    "http://deb.debian.org/debian", "bookworm", ("main",), "/usr/share/keyrings/debian-archive-keyring.gpg"
)
_TIMEOUT_S = 300.0
_ENTER = """
mount -t proc proc "$1/proc" && mount --bind /dev "$1/dev" && ip link set lo up
root=$1; shift
exec env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/ "$(command -v chroot)" "$root" /bin/sh -c "$1"
"""


def reason_against() -> str | None:
    """Why this PC cannot make such a root; None if it can."""
    if os.geteuid() != 0:
        return "an empty root needs root"
    missing = [program for program in ("unshare", "chroot", "ip") if shutil.which(program) is None]
    return f"an empty root needs {', '.join(missing)}" if missing else None


class EmptyRoot:
    """The root. `run` runs a line of its shell in it, with an address 127.0.0.1 and no other one."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder = folder
        apt = PrivateApt(work / "apt", [_SOURCE])
        apt.update()
        for package in apt.download("libc6", "dash"):
            apt.unpack(package, folder)
        for name in ("proc", "dev", "etc", "tmp", "usr/local/bin"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a line. All that it started ends with it."""
        return subprocess.run(
            ["unshare", "-n", "-m", "-p", "-f", "--kill-child", "--propagation", "private", "sh", "-c", _ENTER, "sh",
             str(self.folder), line],
            capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
