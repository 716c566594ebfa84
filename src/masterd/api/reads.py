"""Handlers of reads. Each returns the JSON answer to a request, from memory or etcd.

The caller ensures consistency: for a linearizable read it confirms the term before it calls the handler.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

from aiohttp import web

from masterd.api import cluster_problems
from masterd.api.node_specs import add_specs
from masterd.api.read_sources import ReadSources
from masterd.api.secret_views.hiding import each_shown, hide_config
from masterd.application.identity import application_in_force
from masterd.election.campaign import by_rank
from nodestore.cluster.configuration import current_of, version_of
from nodestore.cluster.overview import counts_toward_quorum, master_views, member_views
from nodestore.errors import Garbage, Invalid, NotFound, Unavailable
from nodestore.etcd.member_certificates import member_certificate_warnings
from nodestore.schema import api_types
from nodestore.schema.api_types import INDEX_MAX, MasterView, MemberView, NodeView, SilentEtcd
from nodestore.schema.models import ConfigRecord, Manifest, TermRecord, decode

HISTORY_MAX = 1_000
_TERMS_MAX = 1_000
_OLD_S = 10.0
"""A standby whose state was not known to be complete for this long reports so in a status."""
_STATUS_WAIT_S = 0.7
"""Time limit for etcd while a status is answered. It is below one second, because clients wait one second at most."""


async def leader(sources: ReadSources, _: web.Request) -> api_types.Leader:
    """The leader and its term. Raises Unavailable if there is none."""
    current, term = sources.cluster_view.leader, sources.leadership.term
    if sources.health.store_problem is not None:  # what etcd holds is not this cluster's leader
        raise Unavailable(f"there is no leader; {sources.own_id}: {sources.health.store_problem}")
    if term is not None and current.revision < term.revision:
        # The watch still shows the previous leader, or none.
        raise Unavailable(f"{sources.own_id} has just taken over; try again in a moment")
    if current.record is None:
        raise Unavailable(
            "there is no leader at the moment"
            + (f"; {sources.own_id}: {reason}" if (reason := sources.health.no_leader_reason) is not None else "")
        )
    record = current.record
    epoch = term.epoch if term is not None else sources.cluster_view.epoch
    if epoch is None and (garbage := sources.cluster_view.garbage.get(sources.keys.epoch)):
        raise Unavailable(f"no masterd can lead: {garbage}")
    return {
        "id": record.id,
        "host": record.host,
        "url": record.urls[0] if record.urls else "",
        "urls": list(record.urls),
        "term": {"epoch": epoch, "revision": current.revision},
        "nonce": record.nonce,
        "since": record.since,
        "cause": record.cause,
        "why": record.why,
        "index": sources.replica.index,
    }


def _leader_id(sources: ReadSources) -> str | None:
    if sources.leadership.leader is not None:
        return sources.own_id
    record = sources.cluster_view.leader.record
    return record.id if record is not None else None


async def masters(sources: ReadSources, _: web.Request) -> api_types.Masters:
    """All candidates. Raises Unavailable if they have not been read yet."""
    if not sources.cluster_view.revision:
        raise Unavailable(f"{sources.own_id} has not read the candidates yet; try again in a moment")
    return {"masters": _master_views(sources)}


def _master_views(sources: ReadSources) -> list[MasterView]:
    views = master_views(sources.cluster_view.candidates.items, _leader_id(sources))
    for view in views:
        if view["id"] == sources.own_id:
            view["index"] = sources.replica.index
    return views


async def application(sources: ReadSources, _: web.Request) -> api_types.Application:
    """The application that may lead, and what each masterd runs and has rehearsed."""
    view, recorded = sources.cluster_view, sources.replica.state.application
    leading = _leader_id(sources)
    return {
        "recorded": recorded,
        "order": None if view.application_order is None else view.application_order.model_dump(mode="json"),
        "in_force": application_in_force(recorded, view.application_order),
        "masters": [
            {
                "id": item.id,
                "role": "leader" if item.id == leading else "standby",
                "application": item.application,
                "application_version": item.application_version,
                "commands_hash": item.commands_hash,
                "unfit": item.unfit,
                "rehearsal": None if item.rehearsal is None else item.rehearsal.model_dump(mode="json"),
            }
            for _, item in sorted(view.candidates.items.items())
        ],
    }


def standbys(sources: ReadSources) -> list[MasterView]:
    """The other candidates, in order of rank: the first one takes over first."""
    views = master_views(sources.cluster_view.candidates.items, _leader_id(sources))
    ranking = [candidate.id for candidate in by_rank(sources.cluster_view.candidates.items.values())]
    others = [view for view in views if view["id"] != sources.own_id]
    return sorted(others, key=lambda view: ranking.index(view["id"]))


async def members(sources: ReadSources, _: web.Request) -> api_types.Members:
    """The members of the etcd cluster."""
    return {"members": await member_views(sources.maintenance)}


async def nodes(sources: ReadSources, request: web.Request) -> api_types.Nodes:
    """All configured nodes."""
    await sources.cluster_view.desired.refresh()
    index, views = sources.replica.index, sources.node_views()
    if wants_specs(request):
        await add_specs(sources, views)
    return {"nodes": views, "index": index}


async def node(sources: ReadSources, request: web.Request) -> NodeView:
    """One node. Raises NotFound if it is not configured."""
    name = request.match_info["node"]
    await sources.cluster_view.desired.refresh()
    if name not in sources.replica.state.inventory.nodes:
        raise NotFound(f"there is no node {name!r} in the configuration")
    found = sources.node_view(name)
    if wants_specs(request):
        await add_specs(sources, [found])
    return found


def wants_specs(request: web.Request) -> bool:
    """Whether the query asks for what the nodes must be. Raises Invalid if it is neither true nor false."""
    text = request.query.get("spec", "false")
    if text not in ("true", "false"):
        raise Invalid(f"spec: expected true or false, got {text[:40]!r}")
    return text == "true"


async def documents(sources: ReadSources, request: web.Request) -> api_types.Documents:
    """The documents whose paths begin with the prefix of the query."""
    state, prefix = sources.replica.state, request.query.get("prefix", "")
    selected = {path: state.documents[path] for path in state.paths(prefix)}
    return {
        "index": state.index,
        "documents": {path: {"index": doc.index, "document": doc.value} for path, doc in selected.items()},
    }


async def document(sources: ReadSources, request: web.Request) -> api_types.Document:
    """One document. Raises NotFound if there is none."""
    path = request.match_info["path"]
    doc = sources.replica.state.documents.get(path)
    if doc is None:
        raise NotFound(f"there is no document {path!r}")
    return {"path": path, "index": doc.index, "document": doc.value}


async def config(sources: ReadSources, _: web.Request) -> api_types.Config:
    """The configuration as written, as adopted, and why the written one is not adopted."""
    view, adopted = sources.cluster_view, sources.replica.state.adopted
    current, problem = current_of(view.config)
    rejected = sources.leadership.config_rejection
    if rejected is not None and (view.config is None or view.config.mod_revision != rejected[0]):
        rejected = None  # it concerns an earlier configuration
    return {
        "current": None if current is None else current.model_dump(mode="json"),
        "version": await _config_version(sources),
        "problem": problem,
        "adopted": None if adopted is None else {"version": adopted.record.version, "index": adopted.index},
        "in_force": None if adopted is None else adopted.record.model_dump(mode="json"),
        "rejected": None
        if rejected is None
        else {"version": current.version if current else None, "error": rejected[1]},
    }


async def _config_version(sources: ReadSources) -> int:
    """The version that the next `apply` must expect as the current one.

    If etcd does not answer, the adopted version is returned, because a local read must not fail in an outage.
    """
    try:
        return await version_of(sources.etcd, sources.keys, sources.cluster_view.config)
    except Unavailable:
        adopted = sources.replica.state.adopted
        return adopted.record.version if adopted is not None else 0


def manifest_json(manifest: Manifest) -> api_types.Snapshot:
    """The view of a snapshot in the API's answers."""
    return {
        "snapshot": f"{manifest.index:016d}-{manifest.nonce}",
        "name": manifest.name,
        "index": manifest.index,
        "time": manifest.time,
        "documents": manifest.documents,
        "bytes": manifest.size_bytes,
    }


async def snapshots(sources: ReadSources, _: web.Request) -> api_types.Snapshots:
    """All snapshots, newest first. Those with a name are kept until they are deleted."""
    manifests = await sources.snapshots.manifests()
    return {"snapshots": [manifest_json(manifest) for manifest in manifests.values()]}


async def snapshot(sources: ReadSources, request: web.Request) -> api_types.SnapshotContent:
    """One snapshot with its documents. Raises NotFound if there is none."""
    full, manifest = await sources.snapshots.find(request.match_info["name"])
    return {**manifest_json(manifest), "documents": await sources.snapshots.read_documents(full)}


async def config_history(sources: ReadSources, request: web.Request) -> api_types.ConfigHistory:
    """The configurations that were applied, newest first."""
    limit = min(query_number(request, "limit", 50, 1), HISTORY_MAX)
    stored = await sources.etcd.range(sources.keys.config_history, timeout_s=5.0)
    versions: list[api_types.ConfigRecord | api_types.UnreadableConfig] = []
    for kv in stored.kvs:
        try:
            versions.append(decode(ConfigRecord, kv.value, kv.key).model_dump(mode="json"))
        except Garbage as error:
            versions.append({"version": None, "problem": str(error)})
    return {"versions": list(reversed(versions))[:limit]}


async def terms(sources: ReadSources, _: web.Request) -> api_types.Terms:
    """The terms that are kept, with the reason for each takeover; newest first."""
    stored = await sources.etcd.range(sources.keys.terms, limit=_TERMS_MAX)
    views: list[api_types.TermView | api_types.UnreadableTerm] = []
    for kv in stored.kvs:
        try:
            record = decode(TermRecord, kv.value, kv.key)
        except Garbage as error:
            views.append({"revision": kv.create_revision, "problem": str(error)})
            continue
        views.append(cast(api_types.TermView, {**record.model_dump(mode="json"), "revision": kv.create_revision}))
    return {"terms": sorted(views, key=lambda item: -item["revision"])}


async def status(sources: ReadSources, request: web.Request) -> api_types.Overview:
    """The state of the whole cluster, with all its problems."""
    await sources.cluster_view.desired.refresh()
    paused = sources.cluster_view.paused
    secrets = await sources.secrets()  # a status goes to screens and to those who are asked for help: never with them
    node_list = await each_shown(sources.node_views(), secrets.node)
    member_list, unreadable, certificates = await asyncio.gather(
        _members_or_error(sources),
        sources.store_scan.find_problems(_STATUS_WAIT_S),
        member_certificate_warnings(sources.maintenance.settings),
    )
    master_list = _master_views(sources)
    return {
        "cluster": sources.keys.cluster,
        "leader": await _leader_or_none(sources, request),
        "masters": master_list,
        "members": member_list,
        "nodes": node_list,
        "config": await hide_config(secrets, await config(sources, request)),
        "paused": None if paused is None else paused.model_dump(mode="json"),
        "index": sources.replica.index,
        "problems": [
            *_problems(sources, node_list, member_list, master_list),
            *certificates,
            *_garbage_problems(sources, unreadable),
        ],
    }


async def _members_or_error(sources: ReadSources) -> list[MemberView | SilentEtcd]:
    """The members of etcd. If they cannot be listed, one item with the error: a status must work while etcd fails."""
    try:
        async with asyncio.timeout(_STATUS_WAIT_S):
            return [*await member_views(sources.maintenance)]
    except TimeoutError:
        error = f"etcd did not list its members within {_STATUS_WAIT_S:g} s"
    except Unavailable as unavailable:
        error = str(unavailable)
    return [{"name": "?", "endpoint": "", "healthy": False, "leader": False, "error": error}]


async def _leader_or_none(sources: ReadSources, request: web.Request) -> api_types.Leader | None:
    try:
        return await leader(sources, request)
    except Unavailable:
        return None


def _problems(
    sources: ReadSources,
    node_list: list[NodeView],
    member_list: list[MemberView | SilentEtcd],
    master_list: list[MasterView],
) -> list[str]:
    """One line for each problem of the cluster, for operators."""
    problems = [
        f"etcd member {member['name']}: {member['error'] or 'not healthy'}"
        for member in member_list
        if not member["healthy"]
    ]
    healthy = sum(1 for member in member_list if counts_toward_quorum(member))
    if 2 * healthy <= len(member_list) and sources.health.maintenance_refusal is None:
        problems.insert(
            0, f"etcd has no quorum, {healthy} of {len(member_list)} members are healthy: nothing can be changed"
        )
    expected = sources.replica.state.inventory.masters
    present = {item["id"] for item in master_list}
    problems += [f"master {name}: down" for name in expected if name not in present]
    problems += [
        f"master {name}: {candidate.warning}"
        for name, candidate in sorted(sources.cluster_view.candidates.items.items())
        if candidate.warning
    ]
    problems += [f"node {view['name']}: {view['problem']}" for view in node_list if view["problem"] is not None]
    warnings = ((view["name"], view["status"]["warning"]) for view in node_list if view["status"])
    problems += [f"node {name}: {warning}" for name, warning in warnings if warning]
    recorded = sources.cluster_view.leader.record
    is_vacant = recorded is None or recorded.id == sources.own_id or sources.health.store_problem is not None
    if sources.leadership.leader is None and is_vacant:
        problems.append("there is no leader: commands are not accepted")
    if sources.leadership.config_rejection is not None:
        problems.append(f"the configuration is not adopted: {sources.leadership.config_rejection[1]}")
    if sources.cluster_view.paused is not None:
        problems.append("takeovers are paused: no standby takes over by itself (nodectl master resume)")
    if sources.health.problem_or_outage is not None:
        problems.append(f"master {sources.own_id}: {sources.health.problem_or_outage}")
    elif sources.leadership.leader is None and sources.replica.age_s > _OLD_S:
        problems.append(f"master {sources.own_id}: its state is {sources.replica.age_s:.0f} s old")
    problems += [f"the store was changed by another program: {line}" for line in sources.health.store_repairs]
    if sources.health.placement_problem is not None:
        problems.append(f"master {sources.own_id}: {sources.health.placement_problem}")
    if sources.health.time_problem is not None:
        problems.append(sources.health.time_problem)
    return problems + _problems_of_others(sources)


def _problems_of_others(sources: ReadSources) -> list[str]:
    """Problems that other programs publish, and those that show only in how often something changes."""
    view, state, leading = sources.cluster_view, sources.replica.state, _leader_id(sources)
    candidates = view.candidates.items
    problems = cluster_problems.master_problems(sources.own_id, candidates, leading)
    problems += cluster_problems.application_problems(
        state.application, view.application_order, candidates.values(), leading
    )
    problems += cluster_problems.noded_problems(
        None if state.adopted is None else state.inventory.nodes,
        view.alive.items,
        sources.claim_changes.frequent(),
        view.waiting.items,
    )
    single = (
        cluster_problems.leadership_problem(view.terms.items.values(), time.time()),
        cluster_problems.standby_problem(candidates, leading),
    )
    return problems + [problem for problem in single if problem is not None]


def _garbage_problems(sources: ReadSources, unreadable: dict[str, str]) -> list[str]:
    """One line for each malformed key that the watches show now or that the most recent scan found."""
    vital = (sources.keys.epoch,)
    return [
        f"nothing can be committed: {text}" if key in vital else f"malformed key ignored: {text}"
        for key, text in {**unreadable, **sources.cluster_view.garbage}.items()
    ]


def query_number(request: web.Request, name: str, default: int, least: int = 0) -> int:
    """The number in the query under `name`, or `default`. Raises Invalid if it is not a whole number from `least`."""
    text = request.query.get(name)
    if text is None:
        return default
    return parse_number(name, text, least)


def parse_number(name: str, text: str, least: int = 0) -> int:
    """Parse a number of a query. Raises Invalid if it is not a whole number from `least` to the highest index."""
    # The length is limited because int() raises for more than 4,300 digits. For a limit callers set `least` to 1,
    # because etcd treats a limit of 0 as no limit.
    if not text.isascii() or not text.isdigit() or len(text) > len(str(INDEX_MAX)) or int(text) < least:
        raise Invalid(f"{name}: expected a whole number from {least} to {INDEX_MAX}, got {text[:40]!r}")
    return int(text)
