"""Keeps files and directories from other users: by their modes on POSIX, by their access lists on Windows."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

HAS_ACCESS_LISTS = sys.platform == "win32"
FILE_LIST = "D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;OW)"
"""The access list of a file, as Windows writes it: all rights for the system, the administrators and the owner, who is
who made the file, and none for others. P: nothing is inherited from the directory."""
DIRECTORY_LIST = "D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FA;;;OW)"
"""The same for a directory, and for what is made in it. CPython gives it to a directory of mode 0700."""
_OTHERS = 0o077
_NO_ACCESS_LISTS = (1, 50)
"""ERROR_INVALID_FUNCTION and ERROR_NOT_SUPPORTED: the volume is FAT or the like."""


def restrict_new(path: Path, mode: int) -> None:
    """Set the mode of a new, empty file. On Windows, keep it from other users if the mode does. Raises OSError."""
    path.chmod(mode)
    if HAS_ACCESS_LISTS and not mode & _OTHERS:
        set_access_list(path, FILE_LIST)


def restrict(path: Path) -> None:
    """Keep an existing file or directory from other users, whatever its rights are. Raises OSError."""
    if HAS_ACCESS_LISTS:
        set_access_list(path, DIRECTORY_LIST if path.is_dir() else FILE_LIST)
    elif (mode := stat.S_IMODE(path.stat().st_mode)) & _OTHERS:
        path.chmod(mode & 0o700)


def set_access_list(path: Path, access_list: str) -> None:
    """Replace the access list. Windows only. A volume without access lists is left as it is. Raises OSError."""
    if sys.platform == "win32":
        import ctypes
        from ctypes import wintypes

        kernel32, advapi32 = (ctypes.WinDLL(name, use_last_error=True) for name in ("kernel32", "advapi32"))
        convert, write = advapi32.ConvertStringSecurityDescriptorToSecurityDescriptorW, advapi32.SetFileSecurityW
        convert.argtypes = [
            wintypes.LPCWSTR, wintypes.DWORD, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(wintypes.ULONG)
        ]  # fmt: skip
        write.argtypes = [wintypes.LPCWSTR, wintypes.DWORD, ctypes.c_void_p]
        kernel32.LocalFree.argtypes = [ctypes.c_void_p]
        descriptor = ctypes.c_void_p()
        if not convert(access_list, 1, ctypes.byref(descriptor), None):
            raise ctypes.WinError(ctypes.get_last_error())
        try:
            dacl = 4
            if not write(str(path), dacl, descriptor) and (code := ctypes.get_last_error()) not in _NO_ACCESS_LISTS:
                raise ctypes.WinError(code)
        finally:
            kernel32.LocalFree(descriptor)
