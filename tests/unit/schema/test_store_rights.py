"""The table of rights in etcd: what it says, and that etcd's permissions say the same."""

from __future__ import annotations

import pytest

from nodestore.errors import Invalid
from nodestore.schema.keys import Keys
from nodestore.schema.store_rights import RIGHTS, ROOT, USER_KINDS, Permission, StoreUser, UserKind, rights_table
from tests.support.access.store_keys import OTHER, OWN, sample_keys

KEYS = Keys("wall")


def _permits(permission: Permission, key: bytes) -> bool:
    return permission.key <= key < permission.end if permission.end else permission.key == key


@pytest.mark.parametrize("kind", USER_KINDS)
def test_permissions_are_exactly_the_table(kind: UserKind) -> None:
    user = StoreUser(kind, OWN)
    for key in sample_keys(KEYS) if kind != "maintenance" else ():
        having = [item for item in user.permissions(KEYS) if _permits(item, key.encode())]
        assert bool(having) == user.may(KEYS, key, write=False), key
        assert any(item.access == "readwrite" for item in having) == user.may(KEYS, key, write=True), key


def test_the_samples_have_every_key_of_the_layout() -> None:
    layout = [value for value in vars(KEYS).values() if value.startswith(KEYS.prefix) and value != KEYS.prefix]
    missing = [key for key in layout if not any(sample.startswith(key) for sample in sample_keys(KEYS))]
    assert not missing


def _readable(kind: UserKind) -> set[str]:
    user = StoreUser(kind, OWN)
    found = {key.removeprefix(KEYS.prefix) for key in sample_keys(KEYS) if user.may(KEYS, key, write=False)}
    return {key.partition("/")[0] for key in found}


def _writable(kind: UserKind) -> set[str]:
    return {key for key in sample_keys(KEYS) if StoreUser(kind, OWN).may(KEYS, key, write=True)}


def test_what_nobody_may_widen_unnoticed() -> None:
    """Says once more, by hand, what matters most. Who changes the table must change this test."""
    assert _readable("noded") == {"epoch", "leader", "desired", "actions", "acted", "status", "alive", "waiting"}
    own = {f"{prefix}{OWN}" for prefix in (KEYS.acted, KEYS.status, KEYS.alive)}
    assert _writable("noded") == own | {f"{KEYS.waiting}{OWN}/0000000000000001"}
    assert _readable("operator") == {"leader", "candidates", "epoch", "paused"}
    assert _readable("automation") == {
        "state", "desired", "status", "alive", "applied", "terms", "leader", "epoch",
    }  # fmt: skip
    assert not _writable("operator") | _writable("automation")
    noded = StoreUser("noded", OWN)
    for forbidden in (KEYS.config_current, KEYS.desired_of(OTHER), KEYS.alive_of(f"{OWN}x"), KEYS.journal, KEYS.grants):
        assert not noded.may(KEYS, forbidden, write=False), forbidden
    masterd = StoreUser("masterd", OWN)
    assert masterd.may(KEYS, KEYS.head, write=True)
    for forbidden in (
        KEYS.host("pc1"),
        KEYS.host_actual("pc1"),
        KEYS.host_changes,
        KEYS.host_placer,
        "/nodectl/other/head",
    ):
        assert not masterd.may(KEYS, forbidden, write=False), forbidden


def test_names_of_users_and_roles() -> None:
    assert StoreUser.parse("noded:n1") == StoreUser("noded", "n1")
    assert StoreUser.parse("etcd:n1") is None
    assert StoreUser.parse("root") is None
    with pytest.raises(Invalid):
        StoreUser.parse("noded:../up")
    assert StoreUser("noded", "n1").role(KEYS) == "nodectl/wall/noded:n1"
    assert StoreUser("operator", "jo").role(KEYS) == "nodectl/wall/operator"
    assert StoreUser("maintenance", "pc1").role(KEYS) == ROOT


def test_the_page_shows_each_right() -> None:
    lines = rights_table().splitlines()
    assert len(lines) == 2 + sum(max(1, len(rights)) for rights in RIGHTS.values())
    assert "| `noded:<name>` | `desired/<name>` | read | what its node must be |" in lines
