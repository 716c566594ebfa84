"""`nodectl pki init|issue|renew|revoke|show`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.commands.security.pki.requests import note_ignored, read_request
from nodectl.cli.commands.security.pki.shared import (
    LIFE_LIMITS_S,
    DirectoryOption,
    IdentityArgument,
    open_authorities,
    report,
    warn,
)
from nodectl.cli.confirmation import YesOption, confirm
from nodectl.cli.duration_option import duration_option
from nodectl.terminal.output import Cell, Format, Output, OutputOption, Table

if TYPE_CHECKING:
    from nodestore.pki.authority import Authorities
    from nodestore.pki.records import IssuedCertificate


def init(
    name: Annotated[str, typer.Option("--name", metavar="CLUSTER", help="Name of the cluster, for display.")] = "wall",
    directory: DirectoryOption = None,
    output: OutputOption = Format.table,
) -> None:
    """Make the two authorities of a cluster: one for the members of etcd among themselves, one for all else.

    Each is a certificate and a key in the directory. Authorities that exist are left alone. Keep the directory on one
    or two PCs only, and a copy of it in a safe place: with its keys, a person can make a certificate of any identity.
    """
    from nodestore.schema.keys import check_name

    authorities = open_authorities(directory)
    made, out = authorities.init(check_name("cluster", name)), Output(output)
    if made:
        out.took_effect()
    for authority in authorities.authorities():
        state = "made" if authority.name in made else "exists already"
        out.note(f"{authority.certificate} {state}")
    _show(authorities, out)


def issue(
    identity: IdentityArgument,
    address: Annotated[
        list[str] | None,
        typer.Option(
            "--address", metavar="HOST",
            help="DNS name or IP address at which other PCs reach it. Repeat it for each one. The loopback addresses "
            "are always added. Default: the addresses of its last certificate.",
        ),
    ] = None,
    life: Annotated[
        float | None,
        duration_option(
            "--life", least_s=LIFE_LIMITS_S[0], most_s=LIFE_LIMITS_S[1],
            help="How long the certificate is valid. Default: as its last certificate, or 2160h, which is 90 days.",
        ),
    ] = None,
    out_directory: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR",
            help="Where to write its files (default: where they were written last, or issued/KIND-NAME).",
        ),
    ] = None,
    csr: Annotated[
        Path | None,
        typer.Option(
            "--csr", metavar="FILE",
            help="A request made on the PC (`nodectl pki request`, or another tool), whose key stays there; - for "
            "stdin.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Issue a new certificate in any case.")] = False,
    directory: DirectoryOption = None,
    output: OutputOption = Format.table,
) -> None:  # fmt: skip
    """Issue a certificate and its key, and write them with the authority's certificate and the revocation list.

    A certificate that exists is kept if its life is not over by two thirds and nothing else was asked for. Copy all
    files of the directory to the PC. A member of etcd gets a second certificate, for the other members.

    With --csr the key is on the PC, so nothing that is copied is secret. Later renewals are for the same key. Of the
    request, only its key counts: --address says at which addresses the PC may serve.
    """
    from nodestore.pki.identity import Subject

    authorities, whom, out = open_authorities(directory), Subject.parse(identity), Output(output)
    if csr is None:
        bundle = authorities.issue(whom, address or (), life_s=life, out=out_directory, force=force)
    else:
        bundle = authorities.sign_request(
            whom, request := read_request(csr), address or (), life_s=life, out=out_directory, force=force
        )  # fmt: skip
        note_ignored(authorities, whom, request, out)
    report(authorities, [bundle], out, "issued")


def renew(
    identity: Annotated[
        list[str] | None, typer.Argument(metavar="[KIND:NAME]...", help="Whose certificates (default: all).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Renew also those that are still fresh.")] = False,
    directory: DirectoryOption = None,
    output: OutputOption = Format.table,
) -> None:
    """Renew the certificates whose life is over by two thirds: the same addresses and files, a new key.

    The programs read changed files within seconds. The former certificates stay valid until they end.
    """
    from nodestore.pki.identity import Subject

    authorities = open_authorities(directory)
    bundles = authorities.renew([Subject.parse(text) for text in identity or ()], force=force)
    report(authorities, bundles, Output(output), "renewed")


def revoke(
    identity: IdentityArgument,
    serial: Annotated[
        str | None,
        typer.Option("--serial", metavar="HEX", help="Only the certificate with this serial number, as `show` has it."),
    ] = None,
    yes: YesOption = False,
    directory: DirectoryOption = None,
    output: OutputOption = Format.table,
) -> None:
    """Revoke all certificates of an identity, for ever.

    The revocation lists ca.crl and peer-ca.crl are written. Copy them to every PC: the programs read a changed list
    within seconds, and close the connections of those that it names.
    """
    from nodestore.pki.identity import Subject

    whom = Subject.parse(identity)
    if not yes:
        confirm(f"Revoke {'the certificate ' + serial if serial else 'all certificates'} of {whom}, for ever?")
    authorities, out = open_authorities(directory), Output(output)
    serials = authorities.revoke(whom, serial)
    out.took_effect()
    for revoked in serials:
        out.note(f"{whom}: certificate {revoked} is revoked")
    out.note(f"copy {authorities.directory}{os.sep}*.crl to every PC")
    out.show(
        {"identity": str(whom), "serials": serials},
        tables=list, names=lambda: serials,
    )  # fmt: skip


def show(directory: DirectoryOption = None, output: OutputOption = Format.table) -> None:
    """Show the authorities and the certificates, with their ends."""
    _show(open_authorities(directory), Output(output))


def _show(authorities: Authorities, out: Output) -> None:
    made, issued = authorities.authorities(), authorities.records().issued
    document = {
        "directory": str(authorities.directory),
        "authorities": [
            {
                "name": item.name,
                "certificate": str(item.certificate),
                "ends": item.ends,
                "has_key": item.has_key,
                "rotation": item.rotation,
            }
            for item in made
        ],
        "certificates": [_as_dict(record) for record in issued],
    }
    out.show(document, tables=lambda: _tables(authorities), names=lambda: sorted({item.identity for item in issued}))
    for item in made:
        if item.rotation is not None:
            out.note(
                f"the authority {item.name} is being replaced: `nodectl pki rotate {item.name}` shows the next step"
            )
    warn(authorities, out)


def _as_dict(record: IssuedCertificate) -> dict[str, Any]:
    return {
        "identity": record.identity, "authority": record.authority, "serial": record.serial,
        "addresses": list(record.names), "issued": record.issued, "ends": record.ends, "revoked": record.revoked,
        "directory": record.directory, "key_on_pc": bool(record.public_key),
    }  # fmt: skip


def _tables(authorities: Authorities) -> list[Table]:
    import time

    from nodestore.support.tls_files import format_time

    now = time.time()
    made = Table(("AUTHORITY", "ENDS", "KEY", "PATH"))
    for item in authorities.authorities():
        made.add(item.name, format_time(item.ends), "here" if item.has_key else "not here", str(item.certificate))
    issued = Table(("IDENTITY", "AUTHORITY", "ENDS", "STATE", "SERIAL", "PATH"), optional=("SERIAL", "PATH"))
    for record in authorities.records().issued:
        issued.add(
            record.identity, record.authority, format_time(record.ends), _state(record, now), record.serial,
            record.directory,
        )  # fmt: skip
    return [made, issued]


def _state(record: IssuedCertificate, now: float) -> Cell:
    if record.revoked is not None:
        return Cell("revoked", "red")
    if now >= record.ends:
        return Cell("ended", "red")
    return Cell("renew", "yellow") if record.is_due(now) else Cell("valid", "green")
