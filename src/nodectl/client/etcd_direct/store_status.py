"""The status of a cluster as far as etcd alone shows it, for operators while no masterd answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict, TypeVar

from pydantic import BaseModel

from nodestore.cluster.configuration import current_of, version_of
from nodestore.cluster.election import LeaderSeen, parse_leader
from nodestore.cluster.overview import master_views, member_views
from nodestore.errors import Denied, Garbage, Unavailable
from nodestore.etcd.member_certificates import member_certificate_warnings
from nodestore.etcd.session import KV, Etcd
from nodestore.schema import models
from nodestore.schema.api_types import ConfigSummary, LeaderSummary, MasterView, MemberView, NodeView, Paused
from nodestore.schema.keys import Keys
from nodestore.schema.models import Candidate, decode

M = TypeVar("M", bound=BaseModel)

_CANDIDATES_MAX = 32


class StoreStatus(TypedDict):
    """The part of the Overview that etcd alone shows. `nodes` is empty: only a master derives their desired state."""

    cluster: str
    leader: LeaderSummary | None
    masters: list[MasterView]
    members: list[MemberView]
    nodes: list[NodeView]
    config: ConfigSummary
    paused: Paused | None
    problems: list[str]


def _no_config() -> ConfigSummary:
    return {"current": None, "version": 0, "problem": None, "adopted": None, "rejected": None}


@dataclass
class _StoreContents:
    """The decoded keys; a key that cannot be decoded is skipped and reported in `problems`."""

    problems: list[str]
    leader: LeaderSeen = field(default_factory=LeaderSeen)
    masters: list[MasterView] = field(default_factory=list)
    paused: Paused | None = None
    config: ConfigSummary = field(default_factory=_no_config)
    denied: set[str] = field(default_factory=set)
    """The parts that this user may not read."""


async def status_of_store(etcd: Etcd, keys: Keys) -> StoreStatus:
    """Return members, leader, candidates, pause and configuration, as far as this user may read them in etcd.

    What it may not read is absent, and named in `problems`. Raises Unavailable if no member answers.
    """
    members = await member_views(etcd)
    ill = [item for item in members if not item["healthy"]]
    found = _StoreContents([f"etcd member {item['name']}: {item['error'] or 'not healthy'}" for item in ill])
    try:
        await _read(etcd, keys, found)
    except Unavailable as error:
        found.problems.append(f"etcd cannot be read, too few of its members are up: {error}")
    else:
        if not found.denied & {"leader", "masters"}:
            found.problems.append(_explain_no_answer(keys, found))
        if "configuration" in found.denied:
            found.config["problem"] = "this user may not read it in etcd"
    found.problems += await member_certificate_warnings(etcd.settings)
    if found.paused is not None:
        found.problems.append("takeovers are paused: no standby takes over by itself (nodectl master resume)")
    return {
        "cluster": keys.cluster,
        "leader": _leader(found.leader),
        "masters": found.masters,
        "members": members,
        "nodes": [],
        "config": found.config,
        "paused": found.paused,
        "problems": found.problems,
    }


async def config_view(etcd: Etcd, keys: Keys) -> ConfigSummary:
    """Return the configuration as far as it is known without a master: `adopted` is None."""
    found = await etcd.get(keys.config_current)
    record, problem = current_of(found)
    return {
        "current": None if record is None else record.model_dump(mode="json"),
        "version": await version_of(etcd, keys, found),
        "problem": problem,
        "adopted": None,
        "rejected": None,
    }


async def _read(etcd: Etcd, keys: Keys, found: _StoreContents) -> None:
    for part, read in (
        ("leader", _read_leader), ("masters", _read_masters), ("pause", _read_pause), ("configuration", _read_config),
    ):  # fmt: skip
        try:
            await read(etcd, keys, found)
        except Denied as error:
            found.denied.add(part)
            found.problems.append(f"{part}: not shown, because this user may not read it in etcd ({error})")


async def _read_leader(etcd: Etcd, keys: Keys, found: _StoreContents) -> None:
    found.leader = parse_leader(await etcd.get(keys.leader))
    if found.leader.garbage is not None:
        found.problems.append(found.leader.garbage)


async def _read_masters(etcd: Etcd, keys: Keys, found: _StoreContents) -> None:
    listed = (
        _decode_or_note(Candidate, kv, found) for kv in (await etcd.range(keys.candidates, limit=_CANDIDATES_MAX)).kvs
    )
    leading = found.leader.record.id if found.leader.record else None
    candidates = {item.id: item for item in listed if item is not None}
    found.masters = master_views(candidates, leading)
    found.problems += [f"master {name}: {item.warning}" for name, item in sorted(candidates.items()) if item.warning]


async def _read_pause(etcd: Etcd, keys: Keys, found: _StoreContents) -> None:
    paused = _decode_or_note(models.Paused, await etcd.get(keys.paused), found)
    found.paused = None if paused is None else paused.model_dump(mode="json")


async def _read_config(etcd: Etcd, keys: Keys, found: _StoreContents) -> None:
    found.config = await config_view(etcd, keys)


def _decode_or_note(model: type[M], kv: KV | None, found: _StoreContents) -> M | None:
    try:
        return None if kv is None else decode(model, kv.value, kv.key)
    except Garbage as error:
        found.problems.append(str(error))
        return None


def _explain_no_answer(keys: Keys, found: _StoreContents) -> str:
    record = found.leader.record
    if record is not None:
        urls = ", ".join(record.urls) or "no URL"
        return f"master {record.id} leads and does not answer at {urls}: has it just died, or is the network cut?"
    if found.masters:
        names = ", ".join(item["id"] for item in found.masters)
        return f"there is no leader, and no masterd answers; candidates: {names}"
    return f"no masterd of cluster {keys.cluster!r} runs: start one, or is --cluster wrong?"


def _leader(seen: LeaderSeen) -> LeaderSummary | None:
    record = seen.record
    if record is None:
        return None
    return {
        "id": record.id,
        "host": record.host,
        "url": next(iter(record.urls), ""),
        "urls": list(record.urls),
        "term": {"epoch": None, "revision": seen.revision},
        "since": record.since,
        "cause": record.cause,
        "why": record.why,
    }
