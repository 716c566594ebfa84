"""IPv6 addresses in every option and URL, and names whose addresses change."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodestore.schema.keys import Keys
from tests.support.etcd_cluster import EtcdCluster, free_ports
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[3]
PATIENCE_S = 60.0
INVENTORY = "nodes: {n1: {}}\ndefaults: {driver: {name: exec, settings: {argv: ['true']}}}\n"
WITHIN_S = 6.0
"""A second between two resolutions, a connect, and what a busy machine adds. It was 24 to 30 s."""

# The name is first that of an address at which nothing listens.
MOVES = """
import asyncio, sys, time
from pathlib import Path
from nodestore.errors import NodectlError
from nodestore.etcd.session import Etcd, EtcdSettings

async def main():
    hosts, port = Path("/etc/hosts"), sys.argv[1]
    hosts.write_text("127.0.0.9 member.test\\n")
    async with Etcd(EtcdSettings(endpoints=(f"member.test:{port}",), call_timeout_s=0.5)) as etcd:
        for _ in range(6):
            try:
                await etcd.get("x")
            except NodectlError:
                continue
            raise SystemExit("the first address answers")
        hosts.write_text("127.0.0.1 member.test\\n")
        moved = time.monotonic()
        while True:
            try:
                await etcd.get("x")
                break
            except NodectlError:
                pass
        print(time.monotonic() - moved)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def ipv6_etcd() -> Iterator[EtcdCluster]:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with EtcdCluster(1, host="::1") as cluster:
        yield cluster


async def test_the_programs_over_ipv6(ipv6_etcd: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """masterd, noded and nodectl; nodectl by way of etcd and of masterd's URL."""
    url = f"http://[::1]:{free_ports(1)[0]}"
    etcd = [f"--cluster={keys.cluster}", f"--endpoints={ipv6_etcd.endpoints[0]}"]
    running = [
        _start("masterd", tmp_path, "--id=m1", f"--listen={url.removeprefix('http://')}", "--timing=slow", *etcd),
        _start("noded", tmp_path, "--node=n1", f"--work-dir={tmp_path / 'work'}", *etcd),
    ]
    try:
        file = tmp_path / "cluster.yaml"
        file.write_text(INVENTORY, "utf-8")
        await _nodectl(*etcd, "config", "apply", str(file), "--wait")
        index = json.loads(await _nodectl(f"--endpoints={url}", "node", "set", "n1", "a=1", "-o", "json"))["index"]

        async def applied() -> bool:
            shown = json.loads(await _nodectl(f"--endpoints={url}", "node", "show", "n1", "-o", "json"))
            return bool((shown["status"] or {}).get("observed_generation", 0) >= index)

        await eventually(applied, "noded has applied the document", timeout_s=PATIENCE_S)
        shown = json.loads(await _nodectl(*etcd, "status", "-o", "json"))
        assert [item["url"] for item in shown["masters"]] == [url]
        assert [item["endpoint"] for item in shown["members"]] == list(ipv6_etcd.endpoints)
    finally:
        for process in running:
            process.kill()
            process.wait()


async def test_a_name_whose_address_changes_costs_seconds(tmp_path: Path) -> None:
    """In a mount namespace with a file /etc/hosts of its own."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a file /etc/hosts of its own needs Linux, root and unshare")
    hosts = tmp_path / "hosts"
    hosts.touch()
    async with EtcdCluster(1) as cluster:
        port = cluster.endpoints[0].rpartition(":")[2]
        done = await asyncio.to_thread(
            subprocess.run,
            ["unshare", "--mount", "--propagation", "private", "sh", "-c",
             'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts), sys.executable, "-c", MOVES, port],
            capture_output=True, text=True, timeout=PATIENCE_S, cwd=ROOT, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < WITHIN_S


def _start(program: str, directory: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with (directory / f"{program}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", program, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


async def _nodectl(*arguments: str) -> str:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NODECTL_")}
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "nodectl", "--request-timeout=20s", *arguments],
        cwd=ROOT, env=environ, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr.decode()
    return done.stdout.decode()
