"""`nodectl kit`: builds kits, shows what is in them, and installs an unpacked one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from nodectl.terminal.output import Format, Output, OutputOption, Table
from nodestore.errors import Invalid

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None,
    help="Build kits: one file that holds all a PC needs without internet.",
)  # fmt: skip


@app.callback()
def kit() -> None:
    """Build kits: one file that holds all a PC needs without internet."""


@app.command("build")
def build(
    platform: Annotated[
        str, typer.Option("--platform", metavar="NAME", help="linux-amd64, linux-arm64 or windows-amd64.")
    ],
    app_wheels: Annotated[
        list[Path] | None,
        typer.Option(
            "--app",
            metavar="WHEEL",
            help="A wheel that travels in the kit: an application, a driver, or what it needs.",
        ),
    ] = None,
    etcd: Annotated[
        Path | None,
        typer.Option("--etcd", metavar="FILE", help="Release archive of etcd (default: download it)."),
    ] = None,
    etcd_sha256: Annotated[
        str | None,
        typer.Option("--etcd-sha256", metavar="HEX", help="SHA-256 of --etcd, if this nodectl does not know it."),
    ] = None,
    python: Annotated[
        Path | None,
        typer.Option("--python", metavar="FILE", help="Windows: python.org's python-3.13.N-embed-amd64.zip."),
    ] = None,
    python_sha256: Annotated[
        str | None, typer.Option("--python-sha256", metavar="HEX", help="SHA-256 of --python.")
    ] = None,
    wheel: Annotated[
        Path | None, typer.Option("--wheel", metavar="FILE", help="nodectl's wheel (default: built from the clone).")
    ] = None,
    lock: Annotated[
        Path | None, typer.Option("--lock", metavar="FILE", help="requirements.lock (default: that of the clone).")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", metavar="FILE", help="The kit's file (default: named by its release)."),
    ] = None,
    output: OutputOption = Format.table,
) -> None:
    """Build the kit of one platform, on a PC with internet. The same inputs give the same bytes.

    All that is downloaded is checked: wheels by the hashes in requirements.lock, Debian's packages by its keyring, etcd
    and Windows' Python by pinned checksums.
    """
    from nodectl.kits.build import BYTES_MAX, KitWish, build
    from nodectl.kits.pieces.etcd_programs import EtcdChoice
    from nodectl.kits.pieces.windows_python import PythonChoice
    from nodectl.kits.platforms import platform_named

    out, target = Output(output), platform_named(platform)
    if etcd is None and etcd_sha256 is not None:
        raise Invalid("--etcd-sha256 needs --etcd")
    if python is not None and not target.is_windows:
        raise Invalid("--python is for Windows kits; the Python of Linux kits is Debian's")
    built = build(
        KitWish(
            platform=target, apps=app_wheels or (), wheel=wheel, lock=lock, etcd=EtcdChoice(etcd, etcd_sha256),
            python=PythonChoice(python, python_sha256), target=file,
        ),
        out.note,
    )  # fmt: skip
    out.took_effect()
    if built.manifest.etcd is None:
        out.warn("the kit has no etcd: its PCs can be nodes, not members; give a release archive with --etcd")
    if built.size_bytes > BYTES_MAX:
        out.warn(f"the kit has {built.size_bytes / 1e6:.1f} MB, more than {BYTES_MAX / 1e6:.0f} MB")
    out.note(f"{built.file}: {built.size_bytes / 1e6:.1f} MB")
    if out.form is not Format.table:
        out.show(
            {"file": str(built.file), "size_bytes": built.size_bytes, "release": built.manifest.release},
            tables=list, names=lambda: [str(built.file)],
        )  # fmt: skip


@app.command("show")
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A kit, or the folder of an unpacked one.")],
    output: OutputOption = Format.table,
) -> None:
    """Show what is in a kit: versions, where each part comes from. All checksums in it are compared first."""
    from nodectl.kits.pieces.part import sha256_of
    from nodectl.kits.verify import verify

    out, verified = Output(output), verify(file)
    manifest = verified.manifest
    rows = [
        ("release", manifest.release), ("platform", manifest.platform), ("commit", manifest.commit or "unknown"),
        ("Python", manifest.python), ("etcd", manifest.etcd or "none: its PCs can be nodes, not members"),
        ("apps", ", ".join(manifest.apps) or "none"),
        ("files", f"{verified.files}, {verified.size_bytes / 1e6:.0f} MB, all as SHA256SUMS says"),
    ]  # fmt: skip
    sha256 = sha256_of(file) if file.is_file() else None
    if sha256 is not None:
        rows.append(("SHA-256", sha256))
    out.show(
        {
            "release": manifest.release, "platform": manifest.platform, "commit": manifest.commit,
            "nodectl": manifest.nodectl, "python": manifest.python, "etcd": manifest.etcd,
            "apps": list(manifest.apps), "parts": list(manifest.parts), "files": verified.files,
            "size_bytes": verified.size_bytes, "sha256": sha256,
        },
        tables=lambda: [_facts(rows), _parts(manifest.parts)], names=lambda: [manifest.release],
    )  # fmt: skip


def _facts(rows: list[tuple[str, str]]) -> Table:
    table = Table(("KIT", "VALUE"))
    for name, value in rows:
        table.add(name, value)
    return table


def _parts(parts: Sequence[Mapping[str, str]]) -> Table:
    table = Table(("PART", "VERSION", "KIND", "SHA-256"), optional=("SHA-256",))
    for part in parts:
        table.add(part["name"], part["version"], part["kind"], part["sha256"])
    return table


@app.command("install")
def install(
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Folder for releases (default: nodectl in /opt or Program Files)."),
    ] = None,
) -> None:
    """Copy the unpacked kit, from which this command runs, to its place on this PC.

    Each release has a folder of its own; `current` names the newest. Run it again after an interruption.
    """
    from nodectl.etcd_binary.running_kit import running_kit
    from nodectl.kits.install import CURRENT, default_base, install

    kit = running_kit()
    if kit is None:
        raise Invalid("this nodectl does not run from a kit: unpack one, and run the nodectl in its folder")
    out, base = Output(), (to or default_base()).absolute()
    installed = install(kit, base, out.note)
    out.took_effect()
    out.note(
        f"{installed.folder} {'installed' if installed.is_new else 'was installed already'}; {base / CURRENT} names it"
    )
