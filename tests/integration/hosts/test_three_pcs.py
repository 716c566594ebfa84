"""Three PCs become a cluster by `host init` and two `host join` at once: real programs, TLS, three members."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from hostd.pc.host_file import require_host_file
from hostd.signing.client import SignerClient
from hostd.signing.renewal import Renewal
from nodestore.errors import Denied
from nodestore.etcd.membership import current_members
from nodestore.etcd.session import Etcd
from nodestore.etcd.types import Member
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject
from tests.support.etcd_cluster import find_etcd
from tests.support.pcs.plain_pcs import LabPc, lab, token_of
from tests.support.waiting import eventually


async def _members(pc: LabPc) -> tuple[Member, ...]:
    async with Etcd(pc.etcd_settings()) as etcd:
        return await current_members(etcd)


async def _voters(pc: LabPc) -> set[str]:
    return {member.name for member in await _members(pc) if not member.learner and member.name}


async def _expect_fresh_certificates(signer: LabPc, pc: LabPc) -> None:
    """What the signer issues anew for a PC reaches that PC; a revocation does too. Others get nothing."""
    host = require_host_file(pc.layout.host_file)
    renewal = Renewal(pc.layout, host)
    assert await renewal.renew() == []
    authorities = Authorities(signer.layout.pki)
    await asyncio.to_thread(authorities.issue, Subject("noded", pc.name), force=True)
    assert await renewal.renew() == [f"noded/{pc.name}.crt"]
    await asyncio.to_thread(authorities.issue, Subject("operator", "jo"))
    await asyncio.to_thread(authorities.revoke, Subject("operator", "jo"))
    assert "hostd/ca.crl" in await renewal.renew()
    stranger = pc.layout.tls_files("noded", pc.name).context()
    with pytest.raises(Denied, match="the certificate of the hostd"):
        await SignerClient(host.signers[0]).certificates(stranger, {})


async def test_three_pcs_become_a_cluster_of_three_members(tmp_path: Path) -> None:
    async with lab(tmp_path, find_etcd(), 3) as pcs:
        first, *others = pcs
        began = await asyncio.to_thread(first.init)
        token = token_of(began)
        assert f"nodectl host join {first.address} --token {token}" in began.stdout
        assert await _voters(first) == {"pc1"}
        joined = await asyncio.gather(*(asyncio.to_thread(pc.join, first.address, token) for pc in others))
        for pc, done in zip(others, joined, strict=True):
            assert done.returncode == 0, done.stderr
            assert f"{pc.name} has joined" in done.stderr

        async def are_three() -> bool:
            return await _voters(first) == {"pc1", "pc2", "pc3"}

        await eventually(are_three, "three members", timeout_s=60)
        status = json.loads((await asyncio.to_thread(first.operate, "status", "-o", "json")).stdout)
        assert [item["name"] for item in status["nodes"]] == ["pc1", "pc2", "pc3"]
        await _expect_fresh_certificates(first, others[0])
        everything = {"nodectl-etcd", "nodectl-masterd", "nodectl-noded"}
        await eventually(lambda: all(pc.runs() == everything for pc in pcs), lambda: str([pc.runs() for pc in pcs]))
