"""`nodectl status` while no masterd answers: what etcd itself shows, and exit code 5."""

from __future__ import annotations

from nodectl.cli.exit_codes import ExitCode
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.schema.keys import Keys
from nodestore.schema.models import Candidate, LeaderRecord, Paused
from tests.support.cli import Nodectl
from tests.support.etcd_cluster import EtcdCluster, free_ports

_WAIT_S = 1.0


def nodectl(cluster: EtcdCluster, keys: Keys) -> Nodectl:
    return Nodectl(cluster.endpoints, keys.cluster, timeout_s=_WAIT_S)


async def test_a_cluster_without_masterd_is_told_apart(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The members are shown, and that no masterd runs."""
    said = await nodectl(etcd_one, keys)("status")
    assert said.code == ExitCode.UNAVAILABLE
    assert etcd_one.members[0].endpoint in said.out
    assert f"no masterd of cluster '{keys.cluster}' runs" in said.out
    assert "nodes" not in said.out
    assert said.lines[0].startswith("error: no masterd answers, so this status is from etcd alone")


async def test_what_masters_left_in_etcd_is_shown(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Leader, candidates and pause are shown; a key that cannot be read is reported and skipped."""
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    async with Etcd(EtcdSettings(endpoints=etcd_one.endpoints)) as etcd:
        await etcd.put(keys.leader, LeaderRecord(id="m1", host="pc1", urls=(url,), nonce="x", since=1.0).encode())
        await etcd.put(keys.candidate("m1"), Candidate(id="m1", host="pc1", urls=(url,), nonce="x").encode())
        await etcd.put(keys.candidate("m2"), Candidate(id="m2", host="pc2", urls=(), nonce="y").encode())
        await etcd.put(keys.candidate("m3"), b"garbage")
        await etcd.put(keys.paused, Paused(actor="ops", time=1.0, reason="cables").encode())
    said = await nodectl(etcd_one, keys)("status", "-o", "json")
    assert said.code == ExitCode.UNAVAILABLE
    assert said.json["leader"]["url"] == url
    assert {item["id"]: item["role"] for item in said.json["masters"]} == {"m1": "leader", "m2": "standby"}
    assert said.json["paused"]["reason"] == "cables"
    problems = "\n".join(said.json["problems"])
    assert f"master m1 leads and does not answer at {url}" in problems
    assert keys.candidate("m3") in problems
    table = await nodectl(etcd_one, keys)("status")
    assert "m1 (silent)" in table.out
    assert "paused by ops: cables" in table.out


async def test_without_etcd_it_is_one_line(keys: Keys) -> None:
    """Without any answer nothing is shown, and the error names the address."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    said = await Nodectl([address], keys.cluster, timeout_s=_WAIT_S)("status")
    assert said.code == ExitCode.UNAVAILABLE
    assert said.out == ""
    assert said.lines[0].startswith("error: neither a masterd nor etcd answers: ")
    assert address in said.lines[0]
    by_url = await Nodectl([f"http://{address}"], timeout_s=_WAIT_S)("status")
    assert by_url.code == ExitCode.UNAVAILABLE
    assert "with --endpoints of etcd" in by_url.lines[0]
