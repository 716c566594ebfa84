"""Changes of a PC's wanted state by an operator: drain, undrain, remove, replace. Each is one transaction.

hostd and the placement do the rest, also after the PC on which the command ran has died.
"""

from __future__ import annotations

from collections.abc import Callable

from hostd.agent.link import listed_members
from nodestore.cluster.settled_writes import swap
from nodestore.errors import Conflict, NotFound
from nodestore.etcd.session import KV, Etcd, cmp_mod, op_put
from nodestore.schema.host_models import HostState
from nodestore.schema.keys import Keys
from nodestore.schema.models import HostRecord, decode, decode_or_none
from nodestore.support.backoff import Backoff
from nodestore.support.waiting import wait_until

_ATTEMPTS = 5


async def set_state(etcd: Etcd, keys: Keys, name: str, state: HostState) -> HostRecord:
    """Set the wanted state of a PC. Raises NotFound, Conflict if it is leaving already and another state is wanted."""
    for _ in range(_ATTEMPTS):
        kv, record = await _record(etcd, keys, name)
        if record.state == state:
            return record
        if record.state == "leaving":
            raise Conflict(f"{name} is leaving the cluster already")
        if state == "leaving":
            await _check_may_leave(etcd, keys, name, record)
        if await _write(etcd, keys, kv, record.model_copy(update={"state": state})):
            return record
    raise Conflict(f"other programs changed the record of {name} at the same time: try again")


async def replace_host(etcd: Etcd, keys: Keys, old: str, new: str) -> None:
    """Have `new` take over the member of `old`, which leaves the cluster. `new` has joined already."""
    for _ in range(_ATTEMPTS):
        kv, record = await _record(etcd, keys, new)
        if record.kind != "host" or record.state != "in_service":
            raise Conflict(f"{new} cannot have a member: its kind is {record.kind}, its state {record.state}")
        if record.replaces == old or await _write(etcd, keys, kv, record.model_copy(update={"replaces": old})):
            await set_state(etcd, keys, old, "leaving")
            return
    raise Conflict(f"other programs changed the record of {new} at the same time: try again")


async def wait_until_left(etcd: Etcd, keys: Keys, name: str, timeout_s: float, report: Callable[[str], None]) -> None:
    """Wait until the PC is forgotten. Raises TimedOut; the removal goes on nevertheless."""

    async def check() -> str | None:
        found = decode_or_none(HostRecord, await etcd.get(keys.host(name)))
        if found is None:
            return None
        has_member = any(member.peer_url == found.peer_url for member in await listed_members(etcd))
        return "its member of etcd is being taken out" if has_member else "its users and certificates are being removed"

    await wait_until(check, f"{name} has left the cluster", timeout_s, Backoff(0.2, 1.0), report=report)


async def _check_may_leave(etcd: Etcd, keys: Keys, name: str, record: HostRecord) -> None:
    """Raise Conflict if nothing could go on without this PC."""
    records = (decode_or_none(HostRecord, kv) for kv in (await etcd.range(keys.hosts)).kvs)
    others = [item for item in records if item is not None and item.key != record.key and item.state != "leaving"]
    if not any(item.kind == "host" for item in others):
        raise Conflict(f"{name} is the last PC that may have a member of etcd: without it there is no cluster")
    if record.signer and not any(item.signer for item in others):
        raise Conflict(f"{name} is the only PC with the keys of the authorities: without it no PC could join any more")


async def _record(etcd: Etcd, keys: Keys, name: str) -> tuple[KV, HostRecord]:
    kv = await etcd.get(keys.host(name))
    if kv is None:
        raise NotFound(f"there is no PC {name!r} in this cluster: nodectl host list")
    return kv, decode(HostRecord, kv.value, kv.key)


async def _write(etcd: Etcd, keys: Keys, kv: KV, record: HostRecord) -> bool:
    value = record.encode()
    changed = op_put(keys.host_changes, kv.key.removeprefix(keys.hosts).encode())
    return await swap(etcd, [cmp_mod(kv.key, kv.mod_revision)], [op_put(kv.key, value), changed], kv.key, value)
