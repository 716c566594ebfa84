"""A real etcd starts from what we generate and from what operators are given."""

from __future__ import annotations

import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from nodestore import procs
from nodestore.etcd_binary import EtcdBinary, find_etcd
from nodestore.etcd_server import MemberConfig, environment
from tests.waiting import eventually

EXAMPLE = Path(__file__).parents[2] / "etcd" / "one" / "pc1.yaml"
HEALTHY_S = 30.0


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    ports: list[int] = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return ports


def healthy(client_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{client_url}/health", timeout=1) as answer:
            return bool(json.load(answer)["health"] == "true")
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        pass
    return False


def version(client_url: str) -> str:
    with urllib.request.urlopen(f"{client_url}/version", timeout=5) as answer:
        return str(json.load(answer)["etcdserver"])


def words(log: Path) -> str:
    return log.read_text(errors="replace")


@asynccontextmanager
async def running(command: Sequence[str], client_url: str, log: Path) -> AsyncIterator[procs.Child]:
    child = await procs.spawn(command, env=environment(os.environ), stdout=log, die_with_parent=True)
    try:
        await eventually(lambda: healthy(client_url) or child.poll() is not None, timeout_s=HEALTHY_S)
        assert child.poll() is None, words(log)
        yield child
    finally:
        assert await child.stop(10) is not None


def complaints(log: Path) -> list[str]:
    """Errors and warnings of etcd about its settings (not about the machine's speed)."""
    lines = [json.loads(line) for line in words(log).splitlines() if line.startswith("{")]
    return [line["msg"] for line in lines if line["level"] != "info" and "config" in line.get("caller", "")]


async def test_the_generated_command_line_runs_a_member(tmp_path: Path) -> None:
    etcd: EtcdBinary = find_etcd()
    client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    member = MemberConfig("m1", tmp_path / "data dir", client, peer, {"m1": peer})
    log = tmp_path / "log"
    for _ in range(2):  # and again on the data it left
        async with running(member.command(etcd.server), client, log):
            assert version(client) == ".".join(map(str, etcd.version))


async def test_the_file_for_one_member_runs_a_member(tmp_path: Path) -> None:
    client_port, peer_port = free_ports(2)
    text = EXAMPLE.read_text(encoding="utf-8")
    text = text.replace(":2379", f":{client_port}").replace(":2380", f":{peer_port}")
    text = text.replace("/var/lib/etcd/wall", (tmp_path / "data").as_posix())
    file, log = tmp_path / "etcd.yaml", tmp_path / "log"
    file.write_text(text, encoding="utf-8")
    command = [str(find_etcd().server), f"--config-file={file}"]
    async with running(command, f"http://127.0.0.1:{client_port}", log):
        assert (tmp_path / "data" / "member").is_dir()
    assert not [line for line in complaints(log) if "single port" not in line]
