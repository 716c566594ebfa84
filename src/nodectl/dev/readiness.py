"""The readiness checks of a cluster: each returns what is still missing, or None."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable

import aiohttp
import psutil

from nodectl.client import Client
from nodectl.dev import waiting
from nodectl.dev.launch import addresses
from nodectl.dev.record import Part, Record


async def unhealthy_members(session: aiohttp.ClientSession, record: Record) -> str | None:
    """Check that all members answer a linearizable read."""
    members = record.parts_of("etcd")
    answers = await asyncio.gather(
        *(waiting.get_json(session, f"{_url(record, part, 'client')}/health") for part in members.values())
    )
    unhealthy = [name for name, answer in zip(members, answers, strict=True) if (answer or {}).get("health") != "true"]
    return f"{format_names(unhealthy)} not healthy" if unhealthy else None


async def silent_masters(session: aiohttp.ClientSession, record: Record) -> str | None:
    """Check that all masters answer on their ports, and no other program does."""
    masters = record.parts_of("masterd")
    answers = await asyncio.gather(
        *(waiting.get_json(session, f"{_url(record, part, 'api')}/v1/health") for part in masters.values())
    )
    silent = [name for name, answer in zip(masters, answers, strict=True) if (answer or {}).get("id") != name]
    return f"{format_names(silent)} not answering" if silent else None


async def missing_leader(client: Client) -> str | None:
    """Check that a master leads. Raises Unavailable, which gives the reason, while none does."""
    await client.leader(timeout_s=1.0)
    return None


async def missing_nodes(client: Client, record: Record) -> str | None:
    """Check that each node is claimed by its current process; a previous noded's claim may outlive it for a while."""
    known = {view["name"]: view.get("alive") or {} for view in await client.nodes()}
    parts = record.parts_of("noded")
    missing = [name for name, part in parts.items() if not _is_claimant(part, known.get(name, {}).get("pid"))]
    return f"{format_names(missing)} missing" if missing else None


def _url(record: Record, part: Part, use: str) -> str:
    return addresses(part, tls=record.tls)[use]


def _is_claimant(part: Part, pid: object) -> bool:
    """Return whether `pid` is the part's process, or (on Windows, where Python may start another one) its child."""
    if part.process is None or not part.process.alive or not isinstance(pid, int):
        return False
    if pid == part.process.pid:
        return True
    if os.name != "nt":
        return False
    with contextlib.suppress(psutil.Error):
        return any(parent.pid == part.process.pid for parent in psutil.Process(pid).parents())
    return False


def format_names(names: Iterable[str]) -> str:
    """Format names as `n1 n2 n3`, or as `n1..n9` if there are more than three."""
    found = list(names)
    return f"{found[0]}..{found[-1]}" if len(found) > 3 else " ".join(found)
