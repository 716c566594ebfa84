"""Both authorities of a cluster are replaced under load, step by step, through the installed programs."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from nodectl.client import Client
from nodestore.errors import NodectlError
from nodestore.etcd.session import Etcd, EtcdSettings
from tests.support.tls.plant import DAEMONS, PATIENCE_S, Load, Plant, plant, readable_log
from tests.support.waiting import eventually

MEMBERS = ("e1", "e2", "e3")


@pytest.mark.nightly
async def test_authorities_are_replaced_without_a_failed_command(tmp_path: Path) -> None:
    """No command fails, no daemon restarts, and what the old authorities have signed is refused afterwards."""
    async with plant(tmp_path) as made, made.cluster.client() as client:
        own = made.cluster.operator_tls
        assert own is not None
        assert own.cert is not None
        old = shutil.copytree(own.cert.parent, tmp_path / "old")
        began = {name: made.cluster.processes[name].process for name in DAEMONS}
        load = Load(client)
        loading = asyncio.create_task(load.run())
        await _replace(made, "peers", load, read_by=())
        await _replace(made, "cluster", load, read_by=DAEMONS)

        assert not loading.done(), loading.exception()
        leader = (await client.leader()).id  # every link is made anew: the follow stream, noded's connection
        await made.nodectl("master", "switchover", "m2" if leader == "m1" else "m1", "--wait")
        assert "n1" in await readable_log(made)
        load.is_over = True
        await loading
        assert (await client.node("n1"))["document"] == {"number": load.done - 1}
        assert {name: made.cluster.processes[name].process for name in DAEMONS} == began
        await _expect_refused(made, old, own.cert.parent)


async def _replace(made: Plant, authority: str, load: Load, read_by: tuple[str, ...]) -> None:
    """All steps. read_by: the daemons that read the files of this authority."""
    for step in ("trust", "reissue", "remove"):
        before = {name: made.log(name).count("uses renewed certificates") for name in read_by}
        await made.pki("rotate", authority, step, "--yes")
        for name, count in before.items():
            await eventually(
                lambda name=name, count=count: made.log(name).count("uses renewed certificates") > count,
                f"{name} reads the files after {step}", timeout_s=PATIENCE_S,
            )  # fmt: skip
        for member in MEMBERS if step != "reissue" else ():
            await made.cluster.kill(member)
            await made.cluster.start(member)
            await _commands_go_on(load)
    await _commands_go_on(load)


async def _commands_go_on(load: Load) -> None:
    before = load.done
    await eventually(lambda: load.done > before + 5, "commands go on", timeout_s=PATIENCE_S)


async def _expect_refused(made: Plant, old: Path, new: Path) -> None:
    """Neither a master nor etcd accepts a certificate of the old authority, although its holder trusts the new one."""
    url = next(iter(made.cluster.master_urls.values()))
    for directory in (new, old):
        files = {"ca": new / "ca.crt", "cert": directory / "dev.crt", "key": directory / "dev.key"}
        with nullcontext() if directory == new else pytest.raises(NodectlError):
            async with Client(url, **files) as client:  # type: ignore[arg-type]
                await client.get("/v1/nodes/n1", timeout_s=5.0 if directory == new else 1.0)
        with nullcontext() if directory == new else pytest.raises(NodectlError):
            async with Etcd(EtcdSettings(endpoints=made.cluster.endpoints, **files)) as etcd:  # type: ignore[arg-type]
                await etcd.get("/nodectl/x")
