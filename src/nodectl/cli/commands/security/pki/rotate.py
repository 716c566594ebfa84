"""`nodectl pki rotate`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.commands.security.pki.shared import DirectoryOption, as_dict, open_authorities
from nodectl.cli.confirmation import YesOption, confirm
from nodectl.terminal.output import Format, Output, OutputOption

if TYPE_CHECKING:
    from nodestore.pki.authority import Authorities, Bundle


class Authority(StrEnum):
    """The two authorities, as arguments."""

    cluster = "cluster"
    peers = "peers"


class Step(StrEnum):
    """The steps of a rotation, in their order, as arguments."""

    trust = "trust"
    reissue = "reissue"
    remove = "remove"


_MEMBERS = "then restart the members of etcd one at a time, because they read {trusted} at their start only"
_QUESTIONS = {
    Step.trust: "Make a new authority, which every program must then trust?",
    Step.reissue: "Does every PC have the new {trusted}, and was every member of etcd restarted since?",
    Step.remove: "Does every PC have its new certificates? Those of the old authority are refused after this",
}
_DONE = {
    Step.trust: "{trusted} holds the old and the new authority",
    Step.reissue: "the new authority signs; {count} identities have new certificates",
    Step.remove: "{trusted} holds the new authority alone",
}
_NEXT = {
    None: "nothing is being replaced; the first step is `nodectl pki rotate {authority} trust`",
    Step.trust: f"copy the directories to their PCs, {_MEMBERS}; next: `nodectl pki rotate {{authority}} reissue`",
    Step.reissue: "copy the directories to their PCs; next: `nodectl pki rotate {authority} remove`",
    Step.remove: f"copy the directories to their PCs, {_MEMBERS}",
}


def rotate(
    authority: Annotated[
        Authority, typer.Argument(help="peers: that of etcd's members among themselves. cluster: that of all else.")
    ],
    step: Annotated[
        Step | None, typer.Argument(help="The step to do. Default: only show which one was done last.")
    ] = None,
    yes: YesOption = False,
    directory: DirectoryOption = None,
    output: OutputOption = Format.table,
) -> None:
    """Replace an authority while the cluster is online, in three steps. After each, copy the files to all PCs.

    trust: make a new authority, which is trusted as well. reissue: issue all certificates anew by the new one. remove:
    trust the old one no more. A step that was interrupted, or is repeated, is completed; none can be skipped. The
    members of etcd must be restarted one at a time after the steps trust and remove; no other program.
    """
    authorities, out = open_authorities(directory), Output(output)
    words = {"authority": authority.value, "trusted": _trusted(authorities, authority)}
    bundles: list[Bundle] = []
    if step is not None:
        if not yes:
            confirm(_QUESTIONS[step].format(**words))
        bundles = authorities.rotate(authority.value, step.value)
        out.took_effect()
        out.note(_DONE[step].format(count=len(bundles), **words))
    last = next(item.rotation for item in authorities.authorities() if item.name == authority)
    out.note(_NEXT[step if step is Step.remove else None if last is None else Step(last)].format(**words))
    out.show(
        {"authority": authority.value, "rotation": last, "issued": [as_dict(item) for item in bundles]},
        tables=list, names=lambda: [str(item.directory) for item in bundles],
    )  # fmt: skip


def _trusted(authorities: Authorities, authority: Authority) -> str:
    return next(item.certificate.name for item in authorities.authorities() if item.name == authority)
