"""Every kind of user tries every key of the layout straight at etcd: what the table of rights forbids is denied.

The tests are generated from the table and from the layout, so that none is missing. Users log in by certificates.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from nodectl.client.etcd_direct.store_status import status_of_store
from nodestore.cluster.overview import member_views
from nodestore.errors import Denied
from nodestore.etcd import maintenance
from nodestore.etcd.access_control import EtcdAccessControl
from nodestore.etcd.lease import Lease
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import Etcd, cmp_mod, op_get, op_put
from nodestore.etcd.watch import follow
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.store_rights import USER_KINDS, StoreUser, UserKind
from tests.support.access.closed_etcd import MAINTENANCE, ClosedEtcd
from tests.support.access.store_keys import OWN, sample_keys
from tests.support.waiting import eventually
from tests.support.watching import observer

KEYS = Keys("wall")
_USERS = [StoreUser(kind, OWN) for kind in USER_KINDS]


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClosedEtcd]:
    etcd = ClosedEtcd(tmp_path_factory.mktemp("closed"))
    with etcd.cluster:
        asyncio.run(etcd.enable(KEYS, _USERS))
        yield etcd


async def _watch(etcd: Etcd, key: str, end: bytes) -> None:
    async with aclosing(follow(etcd, key, end=end, revision=1, progress_s=0.05)) as stream:
        await anext(stream)


Attempt = Callable[[Etcd, str], Awaitable[object]]

_READS: dict[str, Attempt] = {
    "get": lambda etcd, key: etcd.get(key),
    "watch": lambda etcd, key: _watch(etcd, key, (key + "\0").encode()),
    "read in a transaction": lambda etcd, key: etcd.txn([], [op_get(key)]),
    "read in the other branch": lambda etcd, key: etcd.txn([], [], [op_get(key)]),
    "compare": lambda etcd, key: etcd.txn([cmp_mod(key, 7)]),
}
_WRITES: dict[str, Attempt] = {
    "put": lambda etcd, key: etcd.put(key, b"x"),
    "put in a transaction": lambda etcd, key: etcd.txn([], [op_put(key, b"x")]),
    "put in the other branch": lambda etcd, key: etcd.txn([], [], [op_put(key, b"x")]),
    "delete": lambda etcd, key: etcd.delete(key),
}
_RANGES: dict[str, Attempt] = {
    "list": lambda etcd, key: etcd.range(key, limit=1),
    "watch all": lambda etcd, key: _watch(etcd, key, prefix_end(key)),
}
_MAINTENANCE: dict[str, Callable[[Etcd], Awaitable[object]]] = {
    "status": lambda etcd: maintenance.status(etcd, etcd.endpoint),
    "defragment": lambda etcd: maintenance.defragment(etcd, etcd.endpoint),
    "compact": lambda etcd: maintenance.compact(etcd, 1),
    "disarm": lambda etcd: etcd.call("Maintenance/Alarm", pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE)),
    "raise an alarm": lambda etcd: etcd.call(
        "Maintenance/Alarm", pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, alarm="CORRUPT")
    ),
    "switch off": lambda etcd: EtcdAccessControl(etcd).disable(),
    "add a user": lambda etcd: EtcdAccessControl(etcd).add_user("more", None),
    "change a password": lambda etcd: EtcdAccessControl(etcd).set_password("root", "x"),
    "become root": lambda etcd: EtcdAccessControl(etcd).grant_role(f"noded:{OWN}", "root"),
}


async def _is_denied(attempt: Awaitable[object]) -> bool:
    try:
        await attempt
    except Denied:
        return True
    return False


async def _mistakes(etcd: Etcd, attempts: dict[str, Attempt], key: str, *, allowed: bool) -> list[str]:
    """Make all attempts at once; return those that end otherwise than the table says."""
    denied = await asyncio.gather(*(_is_denied(attempt(etcd, key)) for attempt in attempts.values()))
    text = "denied" if allowed else "allowed"
    return [f"{name} {key}: {text}" for name, is_denied in zip(attempts, denied, strict=True) if is_denied == allowed]


def _prefixes() -> list[str]:
    return [value for value in vars(KEYS).values() if value.endswith("/")] + [f"{KEYS.waiting}{OWN}/"]


@pytest.mark.parametrize("kind", USER_KINDS)
async def test_each_key_as_each_user(closed: ClosedEtcd, kind: UserKind) -> None:
    user, wrong = StoreUser(kind, OWN), list[str]()
    async with closed.session(user) as etcd:
        for key in sample_keys(KEYS):
            for attempts, is_write in ((_READS, False), (_WRITES, True)):
                wrong += await _mistakes(etcd, attempts, key, allowed=user.may(KEYS, key, write=is_write))
    assert not wrong


@pytest.mark.parametrize("kind", USER_KINDS)
async def test_each_prefix_as_each_user(closed: ClosedEtcd, kind: UserKind) -> None:
    """A user may list and watch a prefix if it may read every key in it."""
    user, wrong = StoreUser(kind, OWN), list[str]()
    async with closed.session(user) as etcd:
        for prefix in _prefixes():
            within = [key for key in [*sample_keys(KEYS), f"{prefix}x"] if key.startswith(prefix)]
            allowed = all(user.may(KEYS, key, write=False) for key in within)
            wrong += await _mistakes(etcd, _RANGES, prefix, allowed=allowed)
            if not user.may(KEYS, f"{prefix}x", write=True) and not await _is_denied(etcd.delete(prefix, prefix=True)):
                wrong.append(f"delete {prefix}: allowed")
    assert not wrong


@pytest.mark.parametrize("kind", [kind for kind in USER_KINDS if kind != "maintenance"])
async def test_maintenance_as_each_user(closed: ClosedEtcd, kind: UserKind) -> None:
    async with closed.session(StoreUser(kind, OWN)) as etcd:
        allowed = [name for name, attempt in _MAINTENANCE.items() if not await _is_denied(attempt(etcd))]
    assert not allowed


async def test_a_certificate_without_a_user_is_denied(closed: ClosedEtcd) -> None:
    async with closed.session(StoreUser("maintenance", OWN)) as root:
        await EtcdAccessControl(root).delete_user(f"operator:{OWN}")
        try:
            async with closed.session(StoreUser("operator", OWN)) as etcd:
                assert await _is_denied(etcd.get(KEYS.leader))
        finally:
            await EtcdAccessControl(root).add_user(f"operator:{OWN}", None)
            await EtcdAccessControl(root).grant_role(f"operator:{OWN}", StoreUser("operator", OWN).role(KEYS))


async def test_rights_that_change_are_survived(closed: ClosedEtcd) -> None:
    """While roles change all the time, no call, watch or lease of a user with a certificate fails or is doubled."""
    masterd, count = StoreUser("masterd", OWN), 0
    async with closed.session(MAINTENANCE) as root, closed.session(masterd) as etcd, observer(etcd, KEYS.state) as seen:
        lease = await Lease.grant(etcd, 2)
        await etcd.put(KEYS.candidate(OWN), b"x", lease=lease.id)
        changing, keeping = asyncio.create_task(_change_roles(root)), asyncio.create_task(lease.keep_alive())
        while not changing.done():
            await asyncio.gather(*(etcd.put(f"{KEYS.state}{OWN}/{count + number}", b"x") for number in range(8)))
            count += 8
        await changing
        assert not keeping.done()
        keeping.cancel()
        await asyncio.wait((keeping,))
        await eventually(lambda: len(seen.events) >= count)
        assert len(seen.events) == len({event.key for event in seen.events}) == count
        found = await etcd.range(f"{KEYS.state}{OWN}/")
        assert [kv.version for kv in found.kvs] == [1] * count
        await etcd.delete(f"{KEYS.state}{OWN}/", prefix=True)


async def _change_roles(root: Etcd) -> None:
    auth, ends_at = EtcdAccessControl(root), time.monotonic() + 3.0  # longer than the lease
    while time.monotonic() < ends_at:
        await auth.add_role("changing")
        await auth.delete_role("changing")


@pytest.mark.parametrize(
    ("kind", "hidden"),
    [("masterd", []), ("operator", ["configuration"]), ("automation", ["masters", "pause", "configuration"])],
)
async def test_the_status_without_a_master_shows_what_the_user_may_read(
    closed: ClosedEtcd, kind: UserKind, hidden: list[str]
) -> None:
    """The rest is named. It is not a refusal of the whole command, which is needed most when no master answers."""
    async with closed.session(StoreUser("maintenance", OWN)) as root:
        await root.delete(KEYS.prefix, prefix=True)  # what attempts at single keys left there
    async with closed.session(StoreUser(kind, OWN)) as etcd:
        status = await status_of_store(etcd, KEYS)
    problems = status["problems"]
    assert [item.partition(":")[0] for item in problems if "may not read it" in item] == hidden
    assert any("no masterd of cluster" in item for item in problems) == ("masters" not in hidden)
    assert bool(status["config"]["problem"]) == ("configuration" in hidden)
    assert [(member["name"], member["healthy"], member["error"]) for member in status["members"]] == [
        ("m1", True, None)
    ]


async def test_a_member_without_a_quorum_is_not_healthy_for_a_user_without_rights(tmp_path: Path) -> None:
    """The user may not ask for its status; a member with a quorum is healthy for it nevertheless."""
    etcd = ClosedEtcd(tmp_path, size=2)
    async with etcd.cluster:
        await etcd.enable(KEYS, _USERS)
        async with etcd.session(StoreUser("masterd", OWN)) as session:
            assert [view["healthy"] for view in await member_views(session)] == [True, True]
            etcd.cluster.members[0].kill()
            await eventually(lambda: _all_ill(session), "no member is healthy")


async def _all_ill(session: Etcd) -> bool:
    return not any(view["healthy"] for view in await member_views(session))
