"""What the commands of `nodectl pki` share: their options, the directory, and how results are shown."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.terminal.output import Output

if TYPE_CHECKING:
    from nodestore.pki.authority import Authorities, Bundle

LIFE_LIMITS_S = (5.0, 43_800 * 3_600.0)
"""Those of `nodestore.pki.authority`, which takes long to import."""

DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--dir", "-d", metavar="DIR", envvar="NODECTL_PKI_DIR", show_envvar=False,
        help="Directory of the authorities (default: NODECTL_PKI_DIR, else /etc/nodectl/pki; on Windows "
        "%ProgramData%\\nodectl\\pki).",
    ),
]  # fmt: skip
IdentityArgument = Annotated[
    str,
    typer.Argument(
        metavar="KIND:NAME",
        help="Whom the certificate names, such as masterd:pc1. Kinds: host, masterd, noded, hostd, operator, etcd, "
        "automation, maintenance.",
    ),
]


def open_authorities(directory: Path | None) -> Authorities:
    from nodestore.pki.authority import Authorities

    return Authorities(directory or _default_directory())


def _default_directory() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("PROGRAMDATA") or "C:\\ProgramData") / "nodectl" / "pki"
    return Path("/etc/nodectl/pki")


def report(authorities: Authorities, bundles: list[Bundle], out: Output, done: str) -> None:
    """Show what was issued, and where it is."""
    from nodestore.support.tls_files import format_time

    if any(bundle.changed for bundle in bundles):
        out.took_effect()
    for bundle in bundles:
        state = f"{done}; copy {bundle.directory} to its PC" if bundle.changed else "up to date"
        out.note(f"{bundle.identity} ends at {format_time(bundle.ends)}: {state}")
    warn(authorities, out)
    out.show(
        [as_dict(item) for item in bundles],
        tables=list,
        names=lambda: [str(item.directory) for item in bundles],
    )


def as_dict(bundle: Bundle) -> dict[str, Any]:
    return {
        "identity": str(bundle.identity), "directory": str(bundle.directory), "ends": bundle.ends,
        "changed": bundle.changed,
    }  # fmt: skip


def warn(authorities: Authorities, out: Output) -> None:
    """Warn of keys that others can read."""
    for line in authorities.warnings():
        out.warn(line)
