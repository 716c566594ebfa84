"""The table of rights in etcd: which keys each program and person may read and write there. Pure.

`nodectl etcd auth` makes etcd's roles from this table, docs/security.md shows it, and the tests try every key of the
layout as every kind of user. A key that no entry names is denied. Who may send which request to a master is another
table: `masterd.api.access.rights`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from nodestore.schema.keys import Keys, check_name, prefix_end

UserKind = Literal["masterd", "noded", "operator", "automation", "hostd", "maintenance"]
USER_KINDS: tuple[UserKind, ...] = get_args(UserKind)
Access = Literal["read", "readwrite"]

ROOT = "root"
"""The user and the role of etcd that may do everything. etcd enables access control only if both exist."""
_NAME = "<name>"


class Permission(NamedTuple):
    """One permission of a role of etcd: the key `key`; or all keys from `key` up to, not including, `end`."""

    access: Access
    key: bytes
    end: bytes = b""

    def __str__(self) -> str:
        until = f" up to {self.end.decode('utf-8', 'replace')}" if self.end else ""
        return f"{self.access} {self.key.decode('utf-8', 'replace')}{until}"


@dataclass(frozen=True, slots=True)
class StoreRight:
    """The right to read or to write some keys.

    keys: below the cluster's prefix: one key; or all keys that begin with it, if it is empty or ends in a slash.
    `<name>` in it stands for the name of the user. without: prefixes of keys that are left out. why: for the docs.
    """

    keys: str
    access: Access
    why: str
    without: tuple[str, ...] = ()

    @property
    def is_prefix(self) -> bool:
        return not self.keys or self.keys.endswith("/")

    def covers(self, keys: Keys, name: str, key: str) -> bool:
        """Whether it names this key, for the user with this name."""
        begin = keys.prefix + self.keys.replace(_NAME, name)
        left_out = any(key.startswith(keys.prefix + prefix) for prefix in self.without)
        return not left_out and (key.startswith(begin) if self.is_prefix else key == begin)

    def permissions(self, keys: Keys, name: str) -> list[Permission]:
        """The permissions of etcd that give this right. etcd can deny nothing, so a range is divided at `without`."""
        begin = (keys.prefix + self.keys.replace(_NAME, name)).encode()
        if not self.is_prefix:
            return [Permission(self.access, begin)]
        found, end = [], prefix_end(begin.decode())
        for prefix in sorted(keys.prefix + left_out for left_out in self.without):
            found.append(Permission(self.access, begin, prefix.encode()))
            begin = prefix_end(prefix)
        return [*found, Permission(self.access, begin, end)]


RIGHTS: Mapping[UserKind, tuple[StoreRight, ...]] = {
    "masterd": (
        StoreRight(
            "", "readwrite", "the leader writes the journal and the views, and any master may become the leader",
            without=("hosts/", "hosts-actual/", "hosts-placement/"),
        ),
    ),
    "noded": (
        StoreRight("epoch", "read", "tells a restored store from the one that it knows"),
        StoreRight("leader", "read", "connects to the leader for `nodectl node logs`"),
        StoreRight("desired/<name>", "read", "what its node must be"),
        StoreRight("actions/<name>", "read", "the actions that its node must run"),
        StoreRight("acted/<name>", "readwrite", "which action has begun, and its result"),
        StoreRight("status/<name>", "readwrite", "what its node does"),
        StoreRight("alive/<name>", "readwrite", "its claim of the node"),
        StoreRight("waiting/<name>/", "readwrite", "shows that it waits for the claim"),
    ),
    "operator": (
        StoreRight("leader", "read", "to which master nodectl sends requests"),
        StoreRight("candidates/", "read", "which masters can answer while there is no leader"),
        StoreRight("epoch", "read", "whether the store was restored"),
        StoreRight("paused", "read", "why there is no leader"),
    ),
    "automation": (
        StoreRight("state/", "read", "the documents"),
        StoreRight("desired/", "read", "the desired state of each node, with the settings of its driver"),
        StoreRight("status/", "read", "what each node does"),
        StoreRight("alive/", "read", "which nodes are driven"),
        StoreRight("applied", "read", "up to which index the views are complete"),
        StoreRight("terms/", "read", "who led when, and why"),
        StoreRight("leader", "read", "who leads"),
        StoreRight("epoch", "read", "whether the store was restored"),
    ),
    "hostd": (
        StoreRight("hosts/<name>", "read", "what its PC must be"),
        StoreRight("hosts-actual/<name>", "readwrite", "what runs on its PC"),
    ),
    "maintenance": (),
}  # fmt: skip
"""By kind of user. `maintenance` has etcd's role root: it may do everything, and alone may call maintenance methods."""


@dataclass(frozen=True, slots=True, order=True)
class StoreUser:
    """A user of etcd. Its name there is the subject of its certificate, such as `noded:n1`."""

    kind: UserKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"

    @classmethod
    def parse(cls, text: str) -> StoreUser | None:
        """The user in `kind:name`; None if the text names no user of this table. Invalid if the name is not allowed."""
        kind, separator, name = text.partition(":")
        found = next((item for item in USER_KINDS if item == kind), None)
        return cls(found, check_name(kind, name)) if found is not None and separator else None

    def role(self, keys: Keys) -> str:
        """The name of its role in etcd. Users of one kind share it, unless the rights depend on the user's name."""
        if self.kind == "maintenance":
            return ROOT
        own = any(_NAME in right.keys for right in RIGHTS[self.kind])
        return f"{role_prefix(keys)}{self if own else self.kind}"

    def permissions(self, keys: Keys) -> frozenset[Permission]:
        """What its role permits."""
        return frozenset(item for right in RIGHTS[self.kind] for item in right.permissions(keys, self.name))

    def may(self, keys: Keys, key: str, *, write: bool) -> bool:
        """Whether it may read the key; write=True: write it."""
        if self.kind == "maintenance":
            return True
        rights = [right for right in RIGHTS[self.kind] if right.access == "readwrite" or not write]
        return any(right.covers(keys, self.name, key) for right in rights)


def role_prefix(keys: Keys) -> str:
    """How the names of all roles of this cluster begin. Several clusters may share an etcd."""
    return f"nodectl/{keys.cluster}/"


def rights_table() -> str:
    """The Markdown table of all rights, for docs/security.md."""
    lines = ["| user of etcd | keys | may | why |", "| --- | --- | --- | --- |"]
    for kind, rights in RIGHTS.items():
        lines += [f"| `{kind}:<name>` | {_keys_text(right)} | {_may(right)} | {right.why} |" for right in rights]
        if not rights:
            lines.append(f"| `{kind}:<name>`, `{ROOT}` | all | read, write, maintain | has etcd's role `{ROOT}` |")
    return "\n".join(lines)


def _keys_text(right: StoreRight) -> str:
    left_out = f", but not {' and '.join(f'`{prefix}`' for prefix in right.without)}" if right.without else ""
    return (f"`{right.keys}`" if right.keys else "all of the cluster") + left_out


def _may(right: StoreRight) -> str:
    return "read, write" if right.access == "readwrite" else right.access
