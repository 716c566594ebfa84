"""The launchers in a kit's folder: the commands that people type. Services start the Python program itself.

Linux: shell scripts. They enter the folder by its real path, so that a running program never imports modules of
another release when the link `current` moves. Windows: batch files, because a program file without a signature is what
virus scanners stop first.
"""

from __future__ import annotations

from pathlib import Path

from nodectl.kits.platforms import Platform

PROGRAMS = ("nodectl", "masterd", "noded", "hostd")

_SHELL = """\
#!/bin/sh
case $0 in */*) folder=${{0%/*}} ;; *) folder=. ;; esac
folder=$(CDPATH='' cd -P -- "$folder" && pwd -P) || exit 1
exec "$folder/{python}" -m {program} "$@"
"""
_BATCH = '@"%~dp0{python}" -X utf8 -m {program} %*\n'


def add_launchers(platform: Platform, kit: Path) -> None:
    """Write one launcher for each program into `kit`."""
    for program in PROGRAMS:
        if platform.is_windows:
            text = _BATCH.format(python=platform.python_program.replace("/", "\\"), program=program)
            (kit / f"{program}.cmd").write_text(text, "ascii", newline="\r\n")
        else:
            file = kit / program
            file.write_text(_SHELL.format(python=platform.python_program, program=program), "ascii")
            file.chmod(0o755)
