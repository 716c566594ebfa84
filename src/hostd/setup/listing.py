"""`nodectl host list` and `show`: the PCs of the cluster, wanted and actual."""

from __future__ import annotations

from typing import TypedDict

from hostd.agent.link import listed_members
from hostd.agent.plan import ListedMember
from nodestore.errors import NotFound
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import HostActual, HostRecord, decode_or_none


class HostSummary(TypedDict):
    """A PC, for display. `member`: voter, learner or empty. `services`: by name the state, as hostd reported it."""

    name: str
    address: str
    kind: str
    state: str
    signer: bool
    member: str
    shows: bool
    version: str
    services: dict[str, str]
    problems: list[str]
    certificate_ends: float | None
    joined: float
    actor: str


async def host_views(etcd: Etcd, keys: Keys) -> list[HostSummary]:
    """All PCs, by name."""
    actuals = {
        kv.key.removeprefix(keys.hosts_actual): decode_or_none(HostActual, kv)
        for kv in (await etcd.range(keys.hosts_actual)).kvs
    }
    members = {member.peer_url: member for member in await listed_members(etcd)}
    views = []
    for kv in (await etcd.range(keys.hosts)).kvs:
        record, name = decode_or_none(HostRecord, kv), kv.key.removeprefix(keys.hosts)
        if record is not None:
            views.append(_view(name, record, actuals.get(name), members.get(record.peer_url)))
    return views


async def host_view(etcd: Etcd, keys: Keys, name: str) -> HostSummary:
    """One PC. Raises NotFound."""
    found = await host_views(etcd, keys)
    for view in found:
        if view["name"] == name:
            return view
    raise NotFound(f"there is no PC {name!r}; there are: {', '.join(view['name'] for view in found)}")


def _view(name: str, record: HostRecord, actual: HostActual | None, member: ListedMember | None) -> HostSummary:
    problems = list(actual.problems) if actual is not None else ["its hostd does not report"]
    for service, report in sorted(actual.services.items() if actual is not None else ()):
        if report.state == "failed":
            problems.append(f"{service}: {report.problem or 'it failed'}")
    return {
        "name": name, "address": record.address, "kind": record.kind, "state": record.state, "signer": record.signer,
        "member": "" if member is None else "learner" if member.learner else "voter",
        "shows": actual is not None, "version": actual.version if actual is not None else "",
        "services": {} if actual is None else {item: report.state for item, report in actual.services.items()},
        "problems": problems, "certificate_ends": None if actual is None else actual.certificate_ends,
        "joined": record.time, "actor": record.actor,
    }  # fmt: skip
