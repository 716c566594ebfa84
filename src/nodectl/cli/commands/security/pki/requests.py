"""`nodectl pki request`, and the request of `nodectl pki issue --csr`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.commands.security.pki.shared import IdentityArgument
from nodectl.terminal.output import Format, Output, OutputOption
from nodestore.errors import Invalid

if TYPE_CHECKING:
    from nodestore.pki.authority import Authorities
    from nodestore.pki.identity import Subject

_STDIN = Path("-")


def request(
    identity: IdentityArgument,
    out_directory: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="DIR",
            show_default=False,
            help="Directory for the key and the request (default: this directory).",
        ),
    ] = Path(),
    output: OutputOption = Format.table,
) -> None:
    """Make a key on this PC, and a request for its certificate. The key never leaves the PC.

    Copy the request NAME.csr to the PC with the authorities, and sign it with `nodectl pki issue KIND:NAME --csr`. Then
    copy the files that this writes back into the same directory. Repeating it makes the same request for the same key.
    """
    from nodestore.pki.identity import Subject
    from nodestore.pki.request_files import request as make_request

    whom, out = Subject.parse(identity), Output(output)
    made = make_request(out_directory, whom)
    out.took_effect()
    for key in made.keys:
        out.note(f"{key} {'made' if made.made else 'exists already and is used'}; it stays on this PC")
    out.note(f"copy {made.request} to the PC with the authorities: nodectl pki issue {whom} --csr {made.request.name}")
    out.show(
        {"identity": str(whom), "request": str(made.request), "keys": [str(key) for key in made.keys]},
        tables=list, names=lambda: [str(made.request)],
    )  # fmt: skip


def read_request(file: Path) -> bytes:
    """The content of a request, or of stdin. Raises Invalid."""
    from nodestore.pki.signing_requests import REQUEST_BYTES_MAX

    try:
        if file == _STDIN:
            return sys.stdin.buffer.read(REQUEST_BYTES_MAX + 1)
        with file.open("rb") as opened:
            return opened.read(REQUEST_BYTES_MAX + 1)
    except OSError as error:
        raise Invalid(f"cannot read the request {file}: {error.strerror or error}") from None


def note_ignored(authorities: Authorities, whom: Subject, request: bytes, out: Output) -> None:
    """Name the addresses that the request asks for and the certificate does not have."""
    from nodestore.pki.identity import SERVER_KINDS
    from nodestore.pki.signing_requests import check_request

    record = authorities.records().newest(str(whom), "cluster")
    has = set(record.names if record is not None else ())
    for address in check_request(request).asked:
        if address.lower() not in has:
            allow = "--address allows it" if whom.kind in SERVER_KINDS else f"a {whom.kind} accepts no connections"
            out.note(f"the request asks for {address}, which the certificate does not name: {allow}")
