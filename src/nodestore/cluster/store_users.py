"""Compares etcd's users, roles and permissions with the table of rights (`nodestore.schema.store_rights`).

The users of a cluster are those of its masters, its nodes, and the operators whose certificate has a role, as far as
the store names them; and all others that etcd has already, or that the caller names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from nodestore.cluster.configuration import current_of
from nodestore.cluster.grants import CERTIFICATE_PREFIX
from nodestore.errors import Garbage, Invalid
from nodestore.etcd.access_control import EtcdAccessControl
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import Inventory, decode
from nodestore.schema.store_rights import ROOT, Permission, StoreUser, role_prefix
from nodestore.support.jsonio import dumps

SWITCHING_PREFIX = "nodectl-switching-"
"""How the user begins that exists only while access control is being switched on."""
_MASTERS_MAX = 64
_AGAIN = "run `nodectl etcd auth enable` again"


class RightDifference(NamedTuple):
    """What in etcd differs from the table. is_repaired: whether `StoreAccess.enable` repairs it."""

    subject: str
    problem: str
    remedy: str
    is_repaired: bool = True


@dataclass(frozen=True, slots=True)
class StoreUsers:
    """What etcd holds: by user its roles, by role its permissions."""

    roles: Mapping[str, frozenset[str]]
    permissions: Mapping[str, frozenset[Permission]]


async def read_users(auth: EtcdAccessControl) -> StoreUsers:
    """Read all users and roles."""
    return StoreUsers(
        {user: await auth.roles_of(user) for user in await auth.users()},
        {role: await auth.permissions_of(role) for role in await auth.roles()},
    )


async def known_users(etcd: Etcd, keys: Keys) -> frozenset[StoreUser]:
    """The users of the masters, nodes and operators that the store names. Unreadable values name none."""
    masters = {
        kv.key.removeprefix(keys.candidates) for kv in (await etcd.range(keys.candidates, limit=_MASTERS_MAX)).kvs
    }
    record = current_of(await etcd.get(keys.config_current)).record
    inventory = Inventory() if record is None else _inventory_or_empty(record.inventory)
    names = [f"masterd:{name}" for name in masters | inventory.masters.keys()]
    names += [f"noded:{name}" for name in inventory.nodes]
    grants = (await etcd.range(keys.grants + CERTIFICATE_PREFIX, keys_only=True)).kvs
    names += [kv.key.removeprefix(keys.grants) for kv in grants]
    return parsed_users(names)


async def known_hosts(etcd: Etcd, keys: Keys) -> frozenset[str]:
    """The names of the PCs that have joined the cluster."""
    return frozenset(kv.key.removeprefix(keys.hosts) for kv in (await etcd.range(keys.hosts, keys_only=True)).kvs)


def unused_users(keys: Keys, known: Iterable[StoreUser], found: StoreUsers) -> list[StoreUser]:
    """Users of masters and nodes that have rights in this cluster, but are not known to be in it.

    Of other kinds the store cannot name all users.
    """
    known = frozenset(known)
    others = (user for user in parsed_users(found.roles) if user.kind in ("masterd", "noded") and user not in known)
    return sorted(user for user in others if user.role(keys) in found.roles[str(user)])


def describe_unused(user: StoreUser) -> str:
    """Why a user is among `unused_users`."""
    masters = "no such master runs, and the configuration names none"
    what = masters if user.kind == "masterd" else "the configuration names no such node"
    return f"user {user} has rights in etcd, although {what}"


def parsed_users(names: Iterable[str]) -> frozenset[StoreUser]:
    """Those names that are users of the table."""
    found = set()
    for name in names:
        try:
            user = StoreUser.parse(name)
        except Invalid:  # a key that another program wrote
            continue
        if user is not None:
            found.add(user)
    return frozenset(found)


def differences(keys: Keys, wanted: Iterable[StoreUser], found: StoreUsers) -> list[RightDifference]:
    """What differs from the table, for the wanted users and for all others that have rights in this cluster."""
    wanted = sorted(wanted)
    lines = [line for user in wanted for line in _of_user(keys, user, found)]
    for role, permissions in sorted({user.role(keys): user.permissions(keys) for user in wanted}.items()):
        if role != ROOT:
            lines += _of_role(role, permissions, found)
    return lines + _of_strangers(keys, {str(user): user for user in wanted}, found)


def _of_user(keys: Keys, user: StoreUser, found: StoreUsers) -> list[RightDifference]:
    if str(user) not in found.roles:
        return [RightDifference(f"user {user}", "is missing", _AGAIN)]
    role = user.role(keys)
    return [] if role in found.roles[str(user)] else [RightDifference(f"user {user}", f"lacks the role {role}", _AGAIN)]


def _of_role(role: str, wanted: frozenset[Permission], found: StoreUsers) -> list[RightDifference]:
    if role not in found.permissions:
        return [RightDifference(f"role {role}", "is missing", _AGAIN)]
    has = found.permissions[role]
    lacks = [RightDifference(f"role {role}", f"may not {item}", _AGAIN) for item in sorted(wanted - has)]
    return lacks + [RightDifference(f"role {role}", f"may {item}, too much", _AGAIN) for item in sorted(has - wanted)]


def _of_strangers(keys: Keys, wanted: Mapping[str, StoreUser], found: StoreUsers) -> list[RightDifference]:
    """Users with more rights in this cluster than the table gives them."""
    lines = []
    for user, roles in sorted(found.roles.items()):
        if user.startswith(SWITCHING_PREFIX):
            lines.append(RightDifference(f"user {user}", "is left from an interrupted `etcd auth enable`", _AGAIN))
            continue
        own = wanted[user].role(keys) if user in wanted else ROOT if user == ROOT else None
        for role in sorted(roles - {own}):
            if role == ROOT or _touches(keys, found.permissions.get(role, frozenset())):
                problem = f"has the role {role}, which gives it more rights in this cluster than the table"
                lines.append(RightDifference(f"user {user}", problem, f"etcdctl user revoke-role {user} {role}", False))
    return lines


def _touches(keys: Keys, permissions: Iterable[Permission]) -> bool:
    """Whether one of the permissions is for a key of this cluster."""
    begin, end = keys.prefix.encode(), prefix_end(keys.prefix)
    return any(
        item.key < end and (item.end == b"\0" or item.end > begin if item.end else item.key >= begin)
        for item in permissions
    )


def unused_roles(keys: Keys, wanted: Iterable[StoreUser], found: StoreUsers) -> list[str]:
    """The roles of this cluster that belong to none of the wanted users."""
    used = {user.role(keys) for user in wanted}
    return sorted(role for role in found.permissions if role.startswith(role_prefix(keys)) and role not in used)


def _inventory_or_empty(inventory: object) -> Inventory:
    try:
        return decode(Inventory, dumps(inventory), "inventory")
    except Garbage:
        return Inventory()
