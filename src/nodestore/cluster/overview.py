"""Describes etcd's members and the masters, for the API of masterd, and for nodectl if no masterd answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from nodestore.errors import Denied, NodectlError
from nodestore.etcd import maintenance
from nodestore.etcd.session import Etcd, Member, MemberStatus
from nodestore.schema.api_types import LiveMaster, MasterView, MemberView
from nodestore.schema.models import Candidate

_ANSWER_TIMEOUT_S = 0.5
"""A member that takes longer is reported as unhealthy. The limit is short: operators request this during faults."""


async def member_views(etcd: Etcd) -> list[MemberView]:
    """The members of the etcd cluster, each with its own status. Unavailable if none answers.

    With access control in etcd only root may ask for a status. For another user a member is healthy if it serves a
    linearizable read; its version, size and alarms are not known then.
    """
    listed = await maintenance.members(etcd)
    answers = await asyncio.gather(*(_status(etcd, endpoint) for endpoint in etcd.settings.endpoints))
    by_id = {status.member: (endpoint, status) for endpoint, status, _ in answers if status is not None}
    leading = next((status.leader for _, status in by_id.values() if status.leader), 0)
    errors = {endpoint: error for endpoint, status, error in answers if status is None}
    return [_member_view(item, by_id, errors, leading) for item in sorted(listed, key=lambda item: item.name)]


def counts_toward_quorum(view: Mapping[str, Any]) -> bool:
    """Whether this member counts towards the quorum: it answers and knows a leader.

    A member that reports an alarm may count, because each member reports the alarms of all members.
    """
    error = view["error"] or ""
    return bool(view["healthy"]) or (bool(view.get("version")) and "alarm:" in error and "no leader" not in error)


async def _status(etcd: Etcd, endpoint: str) -> tuple[str, MemberStatus | None, str | None]:
    """The endpoint with its status, or with its error. With neither: it serves, but may not be asked for a status."""
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            try:
                return endpoint, await maintenance.status(etcd, endpoint), None
            except Denied:
                await maintenance.check_serving(etcd, endpoint)
                return endpoint, None, None
    except TimeoutError:
        return endpoint, None, f"no answer within {_ANSWER_TIMEOUT_S:g} s"
    except NodectlError as error:
        return endpoint, None, str(error)


def _member_view(
    item: Member, by_id: dict[int, tuple[str, MemberStatus]], errors: dict[str, str | None], leading: int
) -> MemberView:
    endpoint, status = by_id.get(item.id, (None, None))
    if endpoint is None:
        addresses = [url.split("://", 1)[-1] for url in item.client_urls]
        endpoint = addresses[0] if addresses else ""
    error = "; ".join(status.errors) or None if status else errors.get(endpoint, "not among the endpoints")
    return {
        "id": f"{item.id:x}",
        "name": item.name or _peer_address(item),
        "endpoint": endpoint,
        "healthy": error is None and (status is None or status.leader != 0),
        "leader": item.id == leading,
        "version": status.version if status else None,
        "db_bytes": status.db_bytes if status else None,
        "error": error,
    }


def _peer_address(item: Member) -> str:
    """What identifies a member that was added but has never started: it has no name yet."""
    return item.peer_urls[0] if item.peer_urls else f"{item.id:x}"


def master_views(candidates: Mapping[str, Candidate], leader: str | None) -> list[MasterView]:
    """All candidates, the leader included, sorted by id."""
    return [
        {**_live_master(item, leader), "index": item.index, "age_s": item.age_s, "problem": item.problem}
        for _, item in sorted(candidates.items())
    ]


def live_masters(candidates: Mapping[str, Candidate], leader: str | None) -> list[LiveMaster]:
    """All candidates, sorted by id, without their indexes, because an index changes with every command."""
    return [_live_master(item, leader) for _, item in sorted(candidates.items())]


def _live_master(candidate: Candidate, leader: str | None) -> LiveMaster:
    return {
        "id": candidate.id,
        "host": candidate.host,
        "url": candidate.urls[0] if candidate.urls else "",
        "role": "leader" if candidate.id == leader else "standby",
        "priority": candidate.priority,
        "version": candidate.version,
        "pid": candidate.pid,
        "application": candidate.application,
        "application_version": candidate.application_version,
        "unfit": candidate.unfit,
    }
