"""`nodectl etcd auth`: sets and verifies who may read and write which key in etcd."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.confirmation import YesOption, confirm
from nodectl.cli.exit_codes import ExitCode
from nodectl.cli.session import etcd_settings_of, with_etcd
from nodectl.terminal.output import Format, Output, OutputOption, Table
from nodestore.errors import Invalid

if TYPE_CHECKING:
    from nodestore.cluster.store_access import StoreAccess
    from nodestore.cluster.store_users import RightDifference
    from nodestore.etcd.session import Etcd, EtcdSettings
    from nodestore.schema.keys import Keys
    from nodestore.schema.store_rights import StoreUser

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None,
    help="Give each program its rights in etcd, and verify them.",
)  # fmt: skip

UsersArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KIND:NAME]...",
        help="Further users, such as automation:board. Kinds: masterd, noded, operator, automation, maintenance. The "
        "users of the masters and nodes are known.",
    ),
]


@app.command("enable")
def enable(
    context: typer.Context,
    users: UsersArgument = None,
    passwords: Annotated[
        Path | None,
        typer.Option(
            "--passwords", metavar="DIR",
            help="For programs without certificates: write a password for each new user into DIR/KIND-NAME.password.",
        ),
    ] = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Set users, roles and permissions only; do not switch access control on.")
    ] = False,
    yes: YesOption = False,
) -> None:  # fmt: skip
    """Set the users, roles and permissions in etcd by the table in docs/security.md, and switch access control on.

    The cluster stays online. Every program needs its certificate (`CN=KIND:NAME`) or password before that. If a program
    that runs is refused afterwards, access control is switched off again. It needs a certificate of kind maintenance,
    or --user root --password-file; both also work later. Run it again after nodes, masters or operators were added.
    """
    from nodestore.cluster.store_access import StoreAccess

    own = _own_user(etcd_settings_of(context)[0])
    extra, out = _parsed(users), Output()
    if not yes and not prepare:
        confirm("etcd will refuse programs without a certificate or password of their own from now on; go ahead?")

    async def work(etcd: Etcd, keys: Keys) -> bool:
        access = StoreAccess(etcd, keys, own, extra, out.note)
        was_enabled = await access.is_enabled()
        _show(out, await access.set_rights(_new_passwords(passwords), etcd.settings.password))
        out.took_effect()
        for name in () if was_enabled or prepare else await access.switch_on(_session_opener(etcd.settings)):
            out.warn(f"{name} has not renewed its lease yet: check it with `nodectl status`")
        await _warn_of_versions(etcd, out)
        return was_enabled

    was_enabled = with_etcd(context, work)
    if prepare and not was_enabled:
        out.note("users, roles and permissions are set; access control of etcd is still off")
        return
    out.note(f"access control of etcd {'was on already; its rights are up to date' if was_enabled else 'is on'}")


@app.command("check")
def check(context: typer.Context, users: UsersArgument = None, output: OutputOption = Format.table) -> None:
    """Verify every permission in etcd. Exit code 1 if something differs from the table, or access control is off.

    Users of masters and nodes that are not in the cluster any more are named; they do not change the exit code.
    It needs a certificate of kind maintenance, or --user root --password-file.
    """
    from nodestore.cluster.store_access import StoreAccess
    from nodestore.cluster.store_users import describe_unused

    own, extra, out = _own_user(etcd_settings_of(context)[0]), _parsed(users), Output(output)

    async def work(etcd: Etcd, keys: Keys) -> list[RightDifference]:
        access = StoreAccess(etcd, keys, own, extra)
        found = await _state(access)
        for user in await access.unused():
            out.warn(f"{describe_unused(user)}; name it in this command, or run `nodectl etcd auth prune`")
        await _warn_of_versions(etcd, out)
        return found

    found = with_etcd(context, work)
    out.show([_as_dict(item) for item in found], tables=lambda: [_table(found)], names=lambda: _subjects(found))
    if found:
        raise typer.Exit(ExitCode.FAILED)
    out.note("access control of etcd is on, and every permission is as the table says")


@app.command("prune")
def prune(context: typer.Context, users: UsersArgument = None, yes: YesOption = False) -> None:
    """Delete the users of masters and nodes that are not in the cluster any more, so that they have no rights in etcd.

    These are masters that neither run nor are named by the configuration, and nodes that it does not name. Users that
    are named in the command are kept. A program whose user is deleted is refused from then on.
    """
    from nodestore.cluster.store_access import StoreAccess

    own, kept, out = _own_user(etcd_settings_of(context)[0]), _parsed(users), Output()
    unused = with_etcd(context, lambda etcd, keys: StoreAccess(etcd, keys, own, kept).unused())
    if not unused:
        out.note("etcd has no user of a master or node that is not in the cluster")
        return
    if not yes:
        confirm(f"Delete the users {', '.join(map(str, unused))}?")
    with_etcd(context, lambda etcd, keys: StoreAccess(etcd, keys, own, kept, out.note).remove_unused(unused))
    out.took_effect()


@app.command("disable")
def disable(context: typer.Context, yes: YesOption = False) -> None:
    """Switch etcd's access control off: each program that reaches etcd can do everything. The users stay."""
    from nodestore.etcd.access_control import EtcdAccessControl

    if not yes:
        confirm("each program that reaches etcd can do everything from now on; go ahead?")

    async def work(etcd: Etcd, keys: Keys) -> None:
        access = EtcdAccessControl(etcd)
        if await access.is_enabled():
            await access.disable()

    with_etcd(context, work)
    Output().note("access control of etcd is off")


# --- shared ---------------------------------------------------------------------------------------------------------


async def _state(access: StoreAccess) -> list[RightDifference]:
    from nodestore.cluster.store_users import RightDifference

    found = (
        []
        if await access.is_enabled()
        else [RightDifference("access control", "is off", "run `nodectl etcd auth enable`")]
    )
    return found + await access.differences()


def _own_user(settings: EtcdSettings) -> str:
    """The user of etcd as which this command acts once access control is on. Raises Invalid if it could not go on."""
    from nodestore.schema.store_rights import ROOT

    if settings.user == ROOT:
        return ROOT
    name = None if settings.cert is None or settings.user is not None else _common_name(settings.cert)
    if name is None or not (name == ROOT or name.startswith("maintenance:")):
        raise Invalid(
            "this needs --cert and --key of an identity maintenance:NAME (`nodectl pki issue maintenance:NAME`), or "
            "--user root --password-file FILE"
        )
    return name


def _common_name(path: Path) -> str:
    """The common name of the first certificate in a file; empty if it has none or several. Raises Invalid."""
    from nodestore.pki.signing import common_name

    try:
        return common_name(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Invalid(f"certificate {path} cannot be read: {error}") from None


def _parsed(texts: Sequence[str] | None) -> list[StoreUser]:
    from nodestore.schema.store_rights import USER_KINDS, StoreUser

    users = []
    for text in texts or ():
        user = StoreUser.parse(text)
        if user is None:
            raise Invalid(f"{text!r} is not KIND:NAME, such as automation:board; the kinds are {', '.join(USER_KINDS)}")
        users.append(user)
    return users


def _new_passwords(directory: Path | None) -> Callable[[StoreUser], str | None]:
    """Returns passwords from the files of `directory`, which are made if they are missing."""
    from nodestore.pki.private_files import make_private_directory, write_private
    from nodestore.support.password_file import read_password

    def password(user: StoreUser) -> str | None:
        if directory is None:
            return None
        path = directory / f"{user.kind}-{user.name}.password"
        if not path.exists():
            make_private_directory(directory)
            write_private(path, f"{secrets.token_urlsafe(32)}\n".encode())
        return read_password(path)

    return password


def _session_opener(settings: EtcdSettings) -> Callable[[str, str], Etcd]:
    from nodestore.etcd.session import Etcd

    def session(user: str, password: str) -> Etcd:
        return Etcd(dataclasses.replace(settings, user=user, password=password, password_file=None))

    return session


async def _warn_of_versions(etcd: Etcd, out: Output) -> None:
    from nodestore.cluster.overview import member_views
    from nodestore.etcd.versions import access_control_gaps

    for member in await member_views(etcd):
        for gap in access_control_gaps(member["version"] or ""):
            out.warn(f"etcd member {member['name']} is version {member['version']}: {gap}")


def _show(out: Output, found: Sequence[RightDifference]) -> None:
    for item in found:
        out.warn(f"{item.subject} {item.problem}; {item.remedy}")


def _as_dict(item: RightDifference) -> dict[str, str]:
    return {"subject": item.subject, "problem": item.problem, "remedy": item.remedy}


def _table(found: Sequence[RightDifference]) -> Table:
    table = Table(["SUBJECT", "PROBLEM", "REMEDY"])
    for item in found:
        table.add(item.subject, item.problem, item.remedy)
    return table


def _subjects(found: Sequence[RightDifference]) -> list[str]:
    return [item.subject for item in found]
