"""`host init` and `host join` from the folder of an unpacked kit: they install the kit and go on from its place.

So one command a PC is enough, and the services start a Python that stays where it is. An interruption during the copy
is mended by running the command again: `nodectl.kits.install` says how.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from nodectl.etcd_binary.running_kit import running_kit
from nodectl.terminal.output import Output


def kit_etcd() -> Path | None:
    """etcd's server of the kit from which this program runs; None if there is none."""
    kit = running_kit()
    program = None if kit is None else kit / "etcd" / ("etcd.exe" if sys.platform == "win32" else "etcd")
    return program if program is not None and program.is_file() else None


def continue_installed(out: Output, base: Path | None = None) -> None:
    """If this program runs from an unpacked kit, install the kit, run this command from its place, and do not return.

    base: where releases are kept, if not at the system's usual place.
    """
    from nodectl.kits.install import default_base, install, is_installed

    kit = running_kit()
    if kit is None or is_installed(kit):
        return
    installed = install(kit, base or default_base(), out.note)
    argv = [str(installed.python), *_utf8_mode(), "-m", "nodectl", *sys.argv[1:]]
    if sys.platform == "win32":  # exec would return to the shell at once
        raise typer.Exit(asyncio.run(_run(argv)))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(argv[0], argv)  # noqa: S606  the same command, of the same kit


def _utf8_mode() -> list[str]:
    return ["-X", "utf8"] if sys.flags.utf8_mode else []


async def _run(argv: Sequence[str]) -> int:
    from nodestore.processes import child_processes

    child = await child_processes.spawn(argv)
    return await child.wait()
