"""A PC is removed, joins again, and leaves by itself; the number of members follows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from nodestore.errors import NodectlError
from tests.support.etcd_cluster import find_etcd
from tests.support.pcs.plain_pcs import LabPc, lab, token_of
from tests.support.waiting import eventually


def _listed(first: LabPc) -> dict[str, tuple[str, str]]:
    """By PC: its state, and its member."""
    done = first.nodectl("host", "list", "-o", "json")
    if done.returncode != 0:
        raise NodectlError(done.stderr)
    return {item["name"]: (item["state"], item["member"]) for item in json.loads(done.stdout)}


async def _expect_listed(first: LabPc, expected: dict[str, tuple[str, str]]) -> None:
    async def is_so() -> bool:
        return await asyncio.to_thread(_listed, first) == expected

    await eventually(is_so, lambda: f"{_listed(first)} is not {expected}", timeout_s=60)


@pytest.mark.nightly
async def test_a_pc_is_removed_joins_again_and_leaves(tmp_path: Path) -> None:
    async with lab(tmp_path, find_etcd(), 3) as pcs:
        first, second, third = pcs
        token = token_of(await asyncio.to_thread(first.init))
        await asyncio.gather(*(asyncio.to_thread(pc.join, first.address, token) for pc in (second, third)))
        three = {pc.name: ("in_service", "voter") for pc in pcs}
        await _expect_listed(first, three)

        done = await asyncio.to_thread(first.nodectl, "host", "remove", "pc3", "--yes")
        assert done.returncode == 0, done.stderr
        one = {"pc1": ("in_service", "voter"), "pc2": ("in_service", "")}
        await _expect_listed(first, one)
        await eventually(lambda: third.runs() == set(), lambda: str(third.report()))
        done = await asyncio.to_thread(third.join, first.address, token)
        assert done.returncode == 4, done.stderr
        assert "pc3 was removed from the cluster wall: run `nodectl host uninstall`" in done.stderr
        done = await asyncio.to_thread(third.nodectl, "host", "uninstall", "--yes")
        assert done.returncode == 0, done.stderr
        done = await asyncio.to_thread(third.join, first.address, token)
        assert done.returncode == 0, done.stderr
        await _expect_listed(first, three)

        done = await asyncio.to_thread(third.nodectl, "host", "leave", "--yes", "--purge")
        assert done.returncode == 0, done.stderr
        assert not third.layout.var.exists()
        assert not third.layout.etc.exists()
        await _expect_listed(first, one)
        last = await asyncio.to_thread(first.nodectl, "host", "remove", "pc1", "--yes")
        assert last.returncode == 4
        assert "the only PC with the keys of the authorities" in last.stderr
