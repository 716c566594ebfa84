"""Clients send commands while everything around them is killed, paused and resumed; then the store is judged.

CHAOS_SEED repeats a schedule, CHAOS_SECONDS sets how long it goes on (60, 10m, 8h): 45 s by default.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from nodectl import Client
from nodectl.dev.cluster import DevCluster
from nodestore.cluster.election import parse_leader
from nodestore.errors import NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.schema.keys import Keys
from nodestore.support.values import format_duration, parse_duration
from tests.faults.checkers import store_checks
from tests.faults.nemesis import Nemesis
from tests.support.waiting import eventually

CLIENTS = 4
_SEED = os.environ.get("CHAOS_SEED")
_SECONDS = parse_duration(os.environ.get("CHAOS_SECONDS") or "45")
_RECOVERY_S = 60.0


@dataclass
class Record:
    """What the clients know: the ids that were acknowledged with their indexes, and how the others ended."""

    acknowledged: dict[str, int] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    stop: bool = False


async def caller(client: Client, number: int, record: Record, dice: random.Random) -> None:
    """Send one command after another, each with its own id, as long as the faults last."""
    sent = 0
    while not record.stop:
        sent += 1
        known = f"c{number}-{sent}"
        node = f"n{dice.randint(1, 9)}"
        try:
            done = await client.command("node.set", {"node": node, "values": {"text": known}}, id=known, timeout_s=20.0)
        except OutcomeUnknown as error:
            record.unknown.append(f"{known}: {error}")
        except NodectlError as error:
            record.failed.append(f"{known}: {error!r}")
        else:
            record.acknowledged[known] = done.index
        await asyncio.sleep(dice.uniform(0.0, 0.02))


@pytest.mark.nightly
@pytest.mark.timeout(int(_SECONDS) + 300)
async def test_chaos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No acknowledged command is lost or doubled, no deposed leader writes, and every node ends where it should."""
    seed = int(_SEED) if _SEED else secrets.randbelow(1_000_000)
    dice = random.Random(seed)
    record = Record()
    cluster = DevCluster(tmp_path / "chaos", die_with_parent=True)
    try:
        await cluster.up()
        async with Etcd(EtcdSettings(endpoints=cluster.endpoints)) as etcd:
            nemesis = Nemesis(cluster, dice, lambda: _leader(etcd, Keys(cluster.cluster)))
            try:
                await _storm(cluster, nemesis, record, _SECONDS, seed)
                await _judge(cluster, etcd, record)
            except BaseException:
                with capsys.disabled():
                    sys.stdout.write(
                        f"\nrepeat: CHAOS_SEED={seed} CHAOS_SECONDS={format_duration(_SECONDS)} python -m pytest "
                        f"-m nightly tests/integration/faults/test_chaos.py\nthe faults were:\n"
                        + "\n".join(nemesis.schedule)
                    )
                    sys.stdout.write("\n" + "\n".join(record.failed[:5] + record.unknown[:5]) + "\n")
                raise
        with capsys.disabled():
            sys.stdout.write(
                f"\nchaos, seed {seed}: {len(nemesis.schedule)} faults, "
                f"{len(record.acknowledged)} commands acknowledged, "
                f"{len(record.unknown)} of unknown outcome, {len(record.failed)} refused\n"
            )
    finally:
        await cluster.destroy()


async def _leader(etcd: Etcd, keys: Keys) -> str | None:
    try:
        seen = parse_leader(await etcd.get(keys.leader))
    except (Unavailable, OutcomeUnknown):
        return None
    return seen.record.id if seen.record else None


async def _storm(cluster: DevCluster, nemesis: Nemesis, record: Record, duration_s: float, seed: int) -> None:
    async with cluster.client() as first, cluster.client() as second, asyncio.TaskGroup() as tasks:
        for number in range(CLIENTS):
            client = first if number % 2 else second
            tasks.create_task(caller(client, number, record, random.Random(seed + number)))
        await nemesis.run(duration_s)
        done = len(record.acknowledged)
        await eventually(lambda: len(record.acknowledged) > done + 50, "commands go on", timeout_s=_RECOVERY_S)
        record.stop = True


async def _judge(cluster: DevCluster, etcd: Etcd, record: Record) -> None:
    keys = Keys(cluster.cluster)
    found = store_checks.safety(await store_checks.read_store(etcd, keys), record.acknowledged)
    assert not found, found[:10]
    assert not record.failed, record.failed[:10]

    async def settled() -> bool:
        store = await store_checks.read_store(etcd, keys)
        return not store_checks.views_that_differ(store) and not store_checks.nodes_behind(store)

    try:
        await eventually(settled, "views and nodes", timeout_s=_RECOVERY_S)
    except AssertionError:
        store = await store_checks.read_store(etcd, keys)
        raise AssertionError([*store_checks.views_that_differ(store), *store_checks.nodes_behind(store)][:10]) from None
    await _masters_agree(cluster)


async def _masters_agree(cluster: DevCluster) -> None:
    """Every master, the standbys too, comes to have the same documents in memory; asked itself, not through another."""

    async def agree() -> bool:
        seen = []
        async with aiohttp.ClientSession() as session:
            for url in cluster.master_urls.values():
                try:
                    async with session.get(f"{url}/v1/documents", params={"consistency": "local"}) as answer:
                        seen.append(await answer.json())
                except aiohttp.ClientError:
                    return False  # it was started again a moment ago
        return all(view == seen[0] for view in seen)

    await eventually(agree, "all masters have the same state", timeout_s=_RECOVERY_S)
