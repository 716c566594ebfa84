"""Joins that are refused: one line that says what to do, the exit code, and nothing left on the PC."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

from tests.support.etcd_cluster import find_etcd
from tests.support.pcs.plain_pcs import LabPc, lab, token_of


def _expect_refused(done: subprocess.CompletedProcess[str], pc: LabPc, text: str, code: int) -> None:
    assert done.returncode == code, done.stderr
    problem = done.stderr.strip().splitlines()[-1]
    assert text in problem, done.stderr
    assert "Traceback" not in done.stderr
    assert not pc.root.exists(), sorted(pc.root.rglob("*"))


async def test_a_join_that_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    async with lab(tmp_path, find_etcd(), 4) as (first, second, third, fourth):
        token = token_of(await asyncio.to_thread(first.init))
        one_use = await asyncio.to_thread(first.nodectl, "host", "token", "create", "--uses", "1", "-o", "json")
        single, signer = json.loads(one_use.stdout), first.address

        async def refused(pc: LabPc, text: str, code: int, given: str = token, *options: str) -> None:
            done = await asyncio.to_thread(pc.join, signer, given, *options)
            _expect_refused(done, pc, text, code)

        await asyncio.gather(
            refused(second, "token is not complete", 2, token[:-3]),
            refused(third, "unknown or was revoked", 6, f"{token[:-3]}abc"),
            refused(fourth, "its authority has another hash", 6, f"NCT1.{'0' * 64}.{token.split('.', 2)[2]}"),
        )
        joined = await asyncio.to_thread(second.join, signer, single["token"])
        assert joined.returncode == 0, joined.stderr
        await asyncio.gather(
            refused(third, "was used 1 times, which is its limit", 6, single["token"]),
            refused(fourth, f"the name pc2 is taken by the PC at {second.address}", 4, token, "--host", "pc2"),
        )
        await refused(third, f"the address {second.address} is taken by pc2", 4, token, "--address", second.address)
        revoked = await asyncio.to_thread(first.nodectl, "host", "token", "revoke", single["id"])
        assert revoked.returncode == 0, revoked.stderr
        await refused(third, "unknown or was revoked", 6, single["token"])
        node = await asyncio.to_thread(first.nodectl, "host", "token", "create", "--kind", "node", "-o", "name")
        await refused(third, "is for the kind 'node': add --kind node", 6, node.stdout.strip())
        done = await asyncio.to_thread(third.join, f"{signer}:1", token)
        _expect_refused(done, third, "Is TCP port 1 open in its firewall?", 5)
        again = await asyncio.to_thread(second.join, signer, token, "--host", "other")
        assert again.returncode == 4, again.stderr
        assert "this PC belongs to the cluster wall as pc2" in again.stderr
