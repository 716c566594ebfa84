"""The answers to reads. Each takes the master and the request and returns JSON; consistency is the caller's matter."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from masterd.master import Master
from masterd.queries import NodeView, master_views, node_view, node_views
from nodestore.errors import Garbage, Invalid, NodectlError, NotFound, Unavailable
from nodestore.etcd import Member, MemberStatus
from nodestore.jsonio import Json
from nodestore.keys import prefix_end
from nodestore.models import ConfigRecord, Entry, Manifest, TermRecord, decode

HISTORY_MAX = 1_000
_TERMS_MAX = 1_000


async def leader(master: Master, _: web.Request) -> Json:
    """Who leads."""
    seen = master.board.leader
    if seen.record is None:
        raise Unavailable("nobody leads just now")
    if master.leader is not None and seen.revision < master.leader.fence.term.revision:
        raise Unavailable(f"{master.me.id} has just taken over; ask again in a moment")  # our watch lags behind
    record = seen.record
    epoch = master.leader.fence.term.epoch if master.leader is not None else master.board.epoch
    return {
        "id": record.id,
        "host": record.host,
        "url": record.urls[0] if record.urls else "",
        "urls": record.urls,
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
    return master.board.leader.record.id if master.board.leader.record else None


async def masters(master: Master, _: web.Request) -> Json:
    """Every masterd that could lead."""
    views = master_views(master.board.candidates.items, _leader_id(master))
    for view in views:
        if view["id"] == master.me.id:
            view["index"] = master.replica.index
    return {"masters": views}


def standbys(master: Master) -> list[dict[str, Any]]:
    """Those that could take over, the best first."""
    views = master_views(master.board.candidates.items, _leader_id(master))
    others = [view for view in views if view["id"] != master.me.id]
    return sorted(others, key=lambda view: (-view["priority"], -view["index"], view["id"]))


async def members(master: Master, _: web.Request) -> Json:
    """The members of the etcd cluster, each asked for itself."""
    listed = await master.etcd.members()
    endpoints = master.etcd.settings.endpoints
    said = await asyncio.gather(*(_status(master, endpoint) for endpoint in endpoints))
    by_id = {status.member: (endpoint, status) for endpoint, status, _ in said if status is not None}
    leading = next((status.leader for _, status in by_id.values() if status.leader), 0)
    unheard = {endpoint: error or "silent" for endpoint, status, error in said if status is None}
    return {"members": [_member(item, by_id, unheard, leading) for item in sorted(listed, key=lambda item: item.name)]}


async def _status(master: Master, endpoint: str) -> tuple[str, MemberStatus | None, str | None]:
    try:
        return endpoint, await master.etcd.status(endpoint), None
    except NodectlError as error:
        return endpoint, None, str(error)


def _member(
    item: Member, by_id: dict[int, tuple[str, MemberStatus]], unheard: dict[str, str], leading: int
) -> dict[str, Any]:
    endpoint, status = by_id.get(item.id, (None, None))
    if endpoint is None:
        own = [url.split("://", 1)[-1] for url in item.client_urls]
        endpoint = own[0] if own else ""
    return {
        "id": f"{item.id:x}",
        "name": item.name,
        "endpoint": endpoint,
        "healthy": status is not None and not status.errors and status.leader != 0,
        "leader": item.id == leading,
        "version": status.version if status else None,
        "db_bytes": status.db_bytes if status else None,
        "error": "; ".join(status.errors) or None if status else unheard.get(endpoint, "not among the endpoints"),
    }


def _views(master: Master) -> list[NodeView]:
    board, state = master.board, master.replica.state
    return node_views(state.inventory, state, board.status.items, board.alive.items)


async def nodes(master: Master, _: web.Request) -> Json:
    """All configured nodes."""
    return {"nodes": _views(master), "index": master.replica.index}


async def node(master: Master, request: web.Request) -> Json:
    """One node."""
    name, board, state = request.match_info["node"], master.board, master.replica.state
    if name not in state.inventory.nodes:
        raise NotFound(f"there is no node {name!r} in the configuration")
    return node_view(name, state.inventory, state, board.status.items, board.alive.items)


async def documents(master: Master, request: web.Request) -> Json:
    """Documents by prefix."""
    state, prefix = master.replica.state, request.query.get("prefix", "")
    found = {path: state.documents[path] for path in state.paths(prefix)}
    return {
        "index": state.index,
        "documents": {path: {"index": doc.index, "document": doc.value} for path, doc in found.items()},
    }


async def document(master: Master, request: web.Request) -> Json:
    """One document."""
    path = request.match_info["path"]
    doc = master.replica.state.documents.get(path)
    if doc is None:
        raise NotFound(f"there is no document {path!r}")
    return {"path": path, "index": doc.index, "document": doc.value}


async def config(master: Master, _: web.Request) -> Json:
    """The configuration as written, as adopted, and why it is not adopted."""
    board, adopted, current = master.board, master.replica.state.adopted, None
    if board.config is not None:
        try:
            current = decode(ConfigRecord, board.config.value, board.config.key)
        except Garbage:
            current = None
    rejected = master.leader.rejected if master.leader is not None else None
    return {
        "current": current,
        "adopted": None if adopted is None else {"version": adopted.record.version, "index": adopted.index},
        "in_force": None if adopted is None else adopted.record,
        "rejected": None
        if rejected is None
        else {"version": current.version if current else None, "error": rejected[1]},
    }


def told_manifest(manifest: Manifest) -> dict[str, Any]:
    """A snapshot as people see it."""
    return {
        "snapshot": f"{manifest.index:016d}-{manifest.nonce}",
        "name": manifest.name,
        "index": manifest.index,
        "time": manifest.time,
        "documents": manifest.documents,
        "bytes": manifest.size_bytes,
    }


async def snapshots(master: Master, _: web.Request) -> Json:
    """All snapshots, newest first; those with a name are kept until deleted."""
    found = await master.replica.snapshots.manifests()
    return {"snapshots": [told_manifest(manifest) for manifest in found.values()]}


async def snapshot(master: Master, request: web.Request) -> Json:
    """One snapshot with its documents."""
    wanted = request.match_info["name"]
    for full, manifest in (await master.replica.snapshots.manifests()).items():
        if wanted in (full, manifest.name):
            documents = await master.replica.snapshots.documents_of(full)
            return {**told_manifest(manifest), "documents": documents}
    raise NotFound(f"there is no snapshot {wanted!r}")


async def config_history(master: Master, request: web.Request) -> Json:
    """The configurations that were applied, newest first."""
    limit = min(_number(request, "limit", 50), HISTORY_MAX)
    found = await master.etcd.range(master.keys.config_history, timeout_s=5.0)
    told = []
    for kv in found.kvs:
        try:
            told.append(decode(ConfigRecord, kv.value, kv.key).model_dump(mode="json"))
        except Garbage as error:
            told.append({"version": None, "problem": str(error)})
    return {"versions": list(reversed(told))[:limit]}


async def history(master: Master, request: web.Request) -> Json:
    """Commands from the journal: newest first, or, with `after`, oldest first from there on."""
    limit = min(_number(request, "limit", 100), HISTORY_MAX)
    after, before = _number(request, "after", -1), _number(request, "before", 0)
    last = master.replica.index if not before else before - 1
    first = after + 1 if after >= 0 else max(1, last - limit + 1)
    found = await master.etcd.range(
        master.keys.entry(first), end=prefix_end(master.keys.journal), limit=limit, timeout_s=5.0
    )
    commands: list[dict[str, Any]] = []
    for kv in found.kvs:
        try:
            entry = decode(Entry, kv.value, kv.key)
        except Garbage as error:
            commands.append({"index": None, "problem": str(error)})
            continue
        commands.extend(_told(entry, first, last))
    wanted = _filtered(commands, request.query.get("node"), request.query.get("actor"))
    if after < 0:
        wanted.reverse()
    oldest = await master.etcd.range(master.keys.journal, limit=1)
    retained = decode(Entry, oldest.kvs[0].value, oldest.kvs[0].key).first if oldest.kvs else None
    return {"entries": wanted[:limit], "first_retained": retained, "index": master.replica.index}


def _told(entry: Entry, first: int, last: int) -> list[dict[str, Any]]:
    return [
        {**record.model_dump(mode="json", exclude_defaults=True), "epoch": entry.epoch, "term": entry.term}
        for record in entry.commands
        if first <= record.index <= last
    ]


def _filtered(commands: list[dict[str, Any]], node: str | None, actor: str | None) -> list[dict[str, Any]]:
    if node is not None:
        commands = [item for item in commands if node in item.get("specs", {})]
    if actor is not None:
        commands = [item for item in commands if item.get("actor") == actor]
    return commands


async def terms(master: Master, _: web.Request) -> Json:
    """Who led since when, and why: newest first."""
    found = await master.etcd.range(master.keys.terms, limit=_TERMS_MAX)
    told: list[dict[str, Any]] = []
    for kv in found.kvs:
        try:
            record = decode(TermRecord, kv.value, kv.key)
        except Garbage as error:
            told.append({"revision": kv.create_revision, "problem": str(error)})
            continue
        told.append({**record.model_dump(mode="json"), "revision": kv.create_revision})
    return {"terms": sorted(told, key=lambda item: -int(item["revision"]))}


async def status(master: Master, request: web.Request) -> Json:
    """One screen: everything, and what is wrong."""
    board = master.board
    shown = _views(master)
    try:
        etcd = (await members(master, request))["members"]
    except Unavailable as error:
        etcd = [{"name": "?", "endpoint": "", "healthy": False, "leader": False, "error": str(error)}]
    known = (await masters(master, request))["masters"]
    return {
        "cluster": master.keys.cluster,
        "leader": await leader(master, request) if board.leader.record is not None else None,
        "masters": known,
        "members": etcd,
        "nodes": shown,
        "config": await config(master, request),
        "paused": board.paused,
        "index": master.replica.index,
        "problems": _problems(master, shown, etcd, known),
    }


def _problems(
    master: Master, shown: list[NodeView], etcd: list[dict[str, Any]], known: list[dict[str, Any]]
) -> list[str]:
    problems = [f"etcd member {item['name']}: {item['error'] or 'not healthy'}" for item in etcd if not item["healthy"]]
    expected = master.replica.state.inventory.masters
    present = {item["id"] for item in known}
    problems += [f"master {name}: down" for name in expected if name not in present]
    problems += [f"node {view.name}: {view.problem}" for view in shown if view.problem is not None]
    problems += [f"garbage passed over: {text}" for text in master.board.problems.values()]
    if master.leader is not None and master.leader.rejected is not None:
        problems.append(f"the configuration is not adopted: {master.leader.rejected[1]}")
    if master.board.paused is not None:
        problems.append("takeovers are paused: nobody takes over by itself (nodectl master resume)")
    if master.problem is not None:
        problems.append(f"master {master.me.id}: {master.problem}")
    if len(present) < 2:
        problems.append("no standby: nobody could take over")
    return problems


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit():
        raise Invalid(f"{name}: expected a whole number, got {text!r}")
    return int(text)
