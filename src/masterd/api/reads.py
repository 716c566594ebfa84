"""The answers to reads. Each takes the master and the request and returns JSON; consistency is the caller's matter."""

from __future__ import annotations

import asyncio
from typing import cast

from aiohttp import web

from masterd.api.node_views import node_view, node_views
from masterd.election.campaign import by_rank
from masterd.roles.master import Master
from nodestore.cluster.configuration import current_of, version_of
from nodestore.cluster.overview import counts_toward_quorum, master_views, member_views
from nodestore.errors import Garbage, Invalid, NotFound, Unavailable
from nodestore.schema import api_types
from nodestore.schema.api_types import INDEX_MAX, MasterView, MemberView, NodeView, SilentEtcd
from nodestore.schema.models import ConfigRecord, Manifest, TermRecord, decode

HISTORY_MAX = 1_000
_TERMS_MAX = 1_000
_SOON_S = 0.7


async def leader(master: Master, _: web.Request) -> api_types.Leader:
    """Who leads."""
    seen = master.cluster_view.leader
    if seen.record is None:
        raise Unavailable(
            "nobody leads just now"
            + (f"; {master.me.id}: {master.problem_or_outage}" if master.problem_or_outage else "")
        )
    if master.leader is not None and seen.revision < master.leader.fence.term.revision:
        raise Unavailable(f"{master.me.id} has just taken over; ask again in a moment")  # our watch lags behind
    record = seen.record
    epoch = master.leader.fence.term.epoch if master.leader is not None else master.cluster_view.epoch
    if epoch is None and (garbage := master.cluster_view.garbage.get(master.keys.epoch)):
        raise Unavailable(f"nobody can lead: {garbage}")
    return {
        "id": record.id,
        "host": record.host,
        "url": record.urls[0] if record.urls else "",
        "urls": list(record.urls),
        "term": {"epoch": epoch, "revision": seen.revision},
        "nonce": record.nonce,
        "since": record.since,
        "cause": record.cause,
        "why": record.why,
        "index": master.replica.index,
    }


def _leader_id(master: Master) -> str | None:
    if master.leader is not None:
        return master.me.id
    return master.cluster_view.leader.record.id if master.cluster_view.leader.record else None


async def masters(master: Master, _: web.Request) -> api_types.Masters:
    """Every masterd that could lead."""
    views = master_views(master.cluster_view.candidates.items, _leader_id(master))
    for view in views:
        if view["id"] == master.me.id:
            view["index"] = master.replica.index
    return {"masters": views}


def standbys(master: Master) -> list[MasterView]:
    """Those that could take over, the best first."""
    views = master_views(master.cluster_view.candidates.items, _leader_id(master))
    best = [candidate.id for candidate in by_rank(master.cluster_view.candidates.items.values())]
    others = [view for view in views if view["id"] != master.me.id]
    return sorted(others, key=lambda view: best.index(view["id"]))


async def members(master: Master, _: web.Request) -> api_types.Members:
    """The members of the etcd cluster."""
    return {"members": await member_views(master.maintenance)}


def _views(master: Master) -> list[NodeView]:
    board, state = master.cluster_view, master.replica.state
    return node_views(state.inventory, state, board.status.items, board.alive.items, master.application)


async def nodes(master: Master, _: web.Request) -> api_types.Nodes:
    """All configured nodes."""
    return {"nodes": _views(master), "index": master.replica.index}


async def node(master: Master, request: web.Request) -> NodeView:
    """One node."""
    name, board, state = request.match_info["node"], master.cluster_view, master.replica.state
    if name not in state.inventory.nodes:
        raise NotFound(f"there is no node {name!r} in the configuration")
    return node_view(name, state.inventory, state, board.status.items, board.alive.items, master.application)


async def documents(master: Master, request: web.Request) -> api_types.Documents:
    """Documents by prefix."""
    state, prefix = master.replica.state, request.query.get("prefix", "")
    found = {path: state.documents[path] for path in state.paths(prefix)}
    return {
        "index": state.index,
        "documents": {path: {"index": doc.index, "document": doc.value} for path, doc in found.items()},
    }


async def document(master: Master, request: web.Request) -> api_types.Document:
    """One document."""
    path = request.match_info["path"]
    doc = master.replica.state.documents.get(path)
    if doc is None:
        raise NotFound(f"there is no document {path!r}")
    return {"path": path, "index": doc.index, "document": doc.value}


async def config(master: Master, _: web.Request) -> api_types.Config:
    """The configuration as written, as adopted, and why it is not adopted."""
    board, adopted = master.cluster_view, master.replica.state.adopted
    current, problem = current_of(board.config)
    rejected = master.leader.config_rejection if master.leader is not None else None
    if rejected is not None and (board.config is None or board.config.mod_revision != rejected[0]):
        rejected = None  # it was an earlier one
    return {
        "current": None if current is None else current.model_dump(mode="json"),
        "version": await _config_version(master),
        "problem": problem,
        "adopted": None if adopted is None else {"version": adopted.record.version, "index": adopted.index},
        "in_force": None if adopted is None else adopted.record.model_dump(mode="json"),
        "rejected": None
        if rejected is None
        else {"version": current.version if current else None, "error": rejected[1]},
    }


async def _config_version(master: Master) -> int:
    """The one to compare with when a new one is applied; a local read must not fail because etcd is away."""
    try:
        return await version_of(master.etcd, master.keys, master.cluster_view.config)
    except Unavailable:
        adopted = master.replica.state.adopted
        return adopted.record.version if adopted is not None else 0


def manifest_json(manifest: Manifest) -> api_types.Snapshot:
    """A snapshot as people see it."""
    return {
        "snapshot": f"{manifest.index:016d}-{manifest.nonce}",
        "name": manifest.name,
        "index": manifest.index,
        "time": manifest.time,
        "documents": manifest.documents,
        "bytes": manifest.size_bytes,
    }


async def snapshots(master: Master, _: web.Request) -> api_types.Snapshots:
    """All snapshots, newest first; those with a name are kept until deleted."""
    found = await master.replica.snapshots.manifests()
    return {"snapshots": [manifest_json(manifest) for manifest in found.values()]}


async def snapshot(master: Master, request: web.Request) -> api_types.SnapshotContent:
    """One snapshot with its documents."""
    full, manifest = await master.replica.snapshots.find(request.match_info["name"])
    return {**manifest_json(manifest), "documents": await master.replica.snapshots.read_documents(full)}


async def config_history(master: Master, request: web.Request) -> api_types.ConfigHistory:
    """The configurations that were applied, newest first."""
    limit = min(query_number(request, "limit", 50, 1), HISTORY_MAX)
    found = await master.etcd.range(master.keys.config_history, timeout_s=5.0)
    told: list[api_types.ConfigRecord | api_types.UnreadableConfig] = []
    for kv in found.kvs:
        try:
            told.append(decode(ConfigRecord, kv.value, kv.key).model_dump(mode="json"))
        except Garbage as error:
            told.append({"version": None, "problem": str(error)})
    return {"versions": list(reversed(told))[:limit]}


async def terms(master: Master, _: web.Request) -> api_types.Terms:
    """Who led since when, and why: newest first."""
    found = await master.etcd.range(master.keys.terms, limit=_TERMS_MAX)
    told: list[api_types.TermView | api_types.UnreadableTerm] = []
    for kv in found.kvs:
        try:
            record = decode(TermRecord, kv.value, kv.key)
        except Garbage as error:
            told.append({"revision": kv.create_revision, "problem": str(error)})
            continue
        told.append(cast(api_types.TermView, {**record.model_dump(mode="json"), "revision": kv.create_revision}))
    return {"terms": sorted(told, key=lambda item: -item["revision"])}


async def status(master: Master, request: web.Request) -> api_types.Overview:
    """One screen: everything, and what is wrong."""
    board = master.cluster_view
    shown = _views(master)
    etcd, audited = await asyncio.gather(_members_soon(master), master.store_audit.find_problems(_SOON_S))
    known = (await masters(master, request))["masters"]
    return {
        "cluster": master.keys.cluster,
        "leader": await _leader_or_none(master, request),
        "masters": known,
        "members": etcd,
        "nodes": shown,
        "config": await config(master, request),
        "paused": None if board.paused is None else board.paused.model_dump(mode="json"),
        "index": master.replica.index,
        "problems": [*_problems(master, shown, etcd, known), *_garbage_problems(master, audited)],
    }


async def _members_soon(master: Master) -> list[MemberView | SilentEtcd]:
    """This screen is wanted most when etcd is ill, and whoever asks waits no longer than a second."""
    try:
        async with asyncio.timeout(_SOON_S):
            return [*await member_views(master.maintenance)]
    except TimeoutError:
        error = f"etcd does not say within {_SOON_S:g} s who its members are"
    except Unavailable as unavailable:
        error = str(unavailable)
    return [{"name": "?", "endpoint": "", "healthy": False, "leader": False, "error": error}]


async def _leader_or_none(master: Master, request: web.Request) -> api_types.Leader | None:
    try:
        return await leader(master, request)
    except Unavailable:
        return None


def _problems(
    master: Master, shown: list[NodeView], etcd: list[MemberView | SilentEtcd], known: list[MasterView]
) -> list[str]:
    problems = [f"etcd member {item['name']}: {item['error'] or 'not healthy'}" for item in etcd if not item["healthy"]]
    well = sum(1 for item in etcd if counts_toward_quorum(item))
    if 2 * well <= len(etcd) and master.maintenance.refusal is None:
        problems.insert(
            0, f"etcd has no quorum, {well} of {len(etcd)} members are well: nothing can be changed until it has"
        )
    expected = master.replica.state.inventory.masters
    present = {item["id"] for item in known}
    problems += [f"master {name}: down" for name in expected if name not in present]
    problems += [f"node {view['name']}: {view['problem']}" for view in shown if view["problem"] is not None]
    warned = ((view["name"], view["status"]["warning"]) for view in shown if view["status"])
    problems += [f"node {name}: {warning}" for name, warning in warned if warning]
    named = master.cluster_view.leader.record
    if master.leader is None and (named is None or named.id == master.me.id):
        problems.append("nobody leads: commands are not taken")
    if master.leader is not None and master.leader.config_rejection is not None:
        problems.append(f"the configuration is not adopted: {master.leader.config_rejection[1]}")
    if master.cluster_view.paused is not None:
        problems.append("takeovers are paused: nobody takes over by itself (nodectl master resume)")
    if master.problem_or_outage is not None:
        problems.append(f"master {master.me.id}: {master.problem_or_outage}")
    if master.placement.problem is not None:
        problems.append(f"master {master.me.id}: {master.placement.problem}")
    if len(present) < 2:
        problems.append("no standby: nobody could take over")
    return problems


def _garbage_problems(master: Master, audited: dict[str, str]) -> list[str]:
    """What is unreadable, by the watches (now) and by the audit (lately)."""
    vital = (master.keys.epoch, master.keys.head)
    return [
        f"nothing can be committed: {text}" if key in vital else f"garbage passed over: {text}"
        for key, text in {**audited, **master.cluster_view.garbage}.items()
    ]


def query_number(request: web.Request, name: str, default: int, least: int = 0) -> int:
    """The number in the query under `name`. Invalid when it is none."""
    text = request.query.get(name)
    if text is None:
        return default
    return parse_number(name, text, least)


def parse_number(name: str, text: str, least: int = 0) -> int:
    """The number in a query. Invalid when it is none, or could be no index: Python itself refuses to read thousands of
    digits, and etcd takes a limit of 0 as none at all."""
    if not text.isascii() or not text.isdigit() or len(text) > len(str(INDEX_MAX)) or int(text) < least:
        raise Invalid(f"{name}: expected a whole number from {least} to {INDEX_MAX}, got {text[:40]!r}")
    return int(text)
