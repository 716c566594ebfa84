"""`host init` and `host join`, killed after each step and run again: they go on, and nothing is done twice."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from nodestore.cluster.join_tokens import JoinTokens
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from tests.support.etcd_cluster import find_etcd
from tests.support.pcs.plain_pcs import lab, token_of

INIT_STEPS = ("authorities", "certificates", "host file", "etcd", "rights", "record", "hostd", "leader")
JOIN_STEPS = ("authority", "signed", "certificates", "host file", "hostd")


@pytest.mark.parametrize(
    ("init_steps", "join_steps"),
    [
        pytest.param(("etcd", "rights"), ("signed", "host file"), id="in the middle"),
        pytest.param(INIT_STEPS, JOIN_STEPS, id="each step", marks=pytest.mark.nightly),
    ],
)
async def test_init_and_join_go_on_after_a_kill(
    tmp_path: Path, init_steps: tuple[str, ...], join_steps: tuple[str, ...]
) -> None:
    async with lab(tmp_path, find_etcd(), 2) as (first, second):
        for step in init_steps:
            done = await asyncio.to_thread(first.init, killed_after=step)
            assert done.returncode == -signal.SIGKILL, f"{step}: {done.stderr}"
        token = token_of(await asyncio.to_thread(first.init))
        for step in join_steps:
            done = await asyncio.to_thread(second.join, first.address, token, killed_after=step)
            assert done.returncode == -signal.SIGKILL, f"{step}: {done.stderr}"
        done = await asyncio.to_thread(second.join, first.address, token)
        assert done.returncode == 0, done.stderr
        assert "going on" in done.stderr
        async with Etcd(first.etcd_settings()) as etcd:
            keys = Keys("wall")
            tokens = await JoinTokens(etcd, keys).list()
            assert sorted(len(item.used) for item in tokens.values()) == [0] * (len(tokens) - 1) + [1]
            hosts = (await etcd.range(keys.hosts)).kvs
            assert [kv.key.removeprefix(keys.hosts) for kv in hosts] == ["pc1", "pc2"]
        assert first.runs() == {"nodectl-etcd", "nodectl-masterd", "nodectl-noded"}
        assert second.runs() == {"nodectl-noded"}
