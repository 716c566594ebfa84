"""A Windows PC made with Wine, on which a kit is unpacked and programs are run."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tests.windows.forwarder import forwarding_dll

_BOOT_TIMEOUT_S = 240.0
_SERVER = "/usr/lib/wine/wineserver64"


def reason_against() -> str | None:
    """Why there can be no such PC here; None if there can."""
    if shutil.which("wine") is None:
        return "Wine is not installed (Debian's packages wine and wine64)"
    return None


class WinePc:
    """The PC. Its disk C: is in `folder`. `close` is pulling its plug."""

    def __init__(self, folder: Path) -> None:
        self.c = folder / "drive_c"
        self._environment = {
            **os.environ, "WINEPREFIX": str(folder), "WINEARCH": "win64", "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": "winemenubuilder.exe=d;mscoree=d;mshtml=d",
        }  # fmt: skip
        self.run(["wineboot", "-u"], timeout_s=_BOOT_TIMEOUT_S)
        self.run(["wine", "winecfg", "-v", "win10"], timeout_s=_BOOT_TIMEOUT_S)
        random = self.c / "windows/system32/bcryptprimitives.dll"
        if not random.exists():
            random.write_bytes(forwarding_dll(random.name, {"ProcessPrng": "advapi32.SystemFunction036"}))

    def run(self, argv: Sequence[str], *, cwd: Path | None = None, timeout_s: float) -> tuple[int, str]:
        """Run a program to its end. Returns its exit code and its output. Wine needs pipes: a file ends Python."""
        done = subprocess.run(
            argv, cwd=cwd, env=self._environment, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout.decode("utf-8", "replace").replace("\r", "").replace("\0", "")

    def unpack(self, kit: Path) -> Path:
        """Unpack a kit into `C:\\Program Files\\nodectl`, as an administrator would. Returns its folder."""
        place = self.c / "Program Files/nodectl"
        with zipfile.ZipFile(kit) as archive:
            archive.extractall(place)
        (folder,) = place.iterdir()
        # Python 3.13 asks WMI for the version of Windows, which Wine 8 ends with a crash. Without it, it does not ask.
        (folder / "python/_wmi.pyd").unlink()
        return folder

    def close(self) -> None:
        subprocess.run([_SERVER, "-k"], env=self._environment, check=False, timeout=_BOOT_TIMEOUT_S)
