"""A real etcd starts from what we generate and from what operators are given."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from nodectl.__main__ import run
from nodectl.etcd_binary.find import EtcdBinary, find_etcd
from nodestore.etcd.member_defaults import MemberConfig, environment
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject
from nodestore.processes import child_processes
from nodestore.support.tls_files import TlsFiles
from tests.support.certificates import Authority
from tests.support.waiting import eventually

HEALTHY_S = 30.0


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    ports: list[int] = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return ports


def healthy(client_url: str, context: ssl.SSLContext | None = None) -> bool:
    try:
        with urllib.request.urlopen(f"{client_url}/health", timeout=1, context=context) as answer:
            return bool(json.load(answer)["health"] == "true")
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        pass
    return False


def version(client_url: str) -> str:
    with urllib.request.urlopen(f"{client_url}/version", timeout=5) as answer:
        return str(json.load(answer)["etcdserver"])


def member_names(client_url: str) -> list[str]:
    """As the member lists them, sorted."""
    with urllib.request.urlopen(f"{client_url}/v3/cluster/member/list", data=b"{}", timeout=5) as answer:
        return sorted(str(member["name"]) for member in json.load(answer)["members"])


def words(log: Path) -> str:
    return log.read_text(errors="replace")


@asynccontextmanager
async def running(
    command: Sequence[str], client_url: str, log: Path, context: ssl.SSLContext | None = None
) -> AsyncIterator[child_processes.Child]:
    child = await child_processes.spawn(command, env=environment(os.environ), stdout=log, die_with_parent=True)
    try:
        await eventually(lambda: healthy(client_url, context) or child.poll() is not None, timeout_s=HEALTHY_S)
        assert child.poll() is None, words(log)
        yield child
    finally:
        assert await child.stop(10) is not None


def complaints(log: Path) -> list[str]:
    """Errors and warnings of etcd about its settings (not about the machine's speed, nor about clients by HTTP)."""
    lines = [json.loads(line) for line in words(log).splitlines() if line.startswith("{")]
    found = [line["msg"] for line in lines if line["level"] != "info" and "config" in line.get("caller", "")]
    return [message for message in found if "single port" not in message]


async def test_the_generated_command_line_runs_a_member(tmp_path: Path) -> None:
    etcd: EtcdBinary = find_etcd()
    client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
    member = MemberConfig("m1", tmp_path / "data dir", client, peer, {"m1": peer})
    log = tmp_path / "log"
    for _ in range(2):  # and again on the data it left
        async with running(member.command(etcd.server), client, log):
            assert version(client) == ".".join(map(str, etcd.version))


def generate(folder: Path, name: str, *options: str) -> Path:
    """Write a member's file with `nodectl etcd config`; its data is stored next to it."""
    file = folder / f"{name}.yaml"
    places = ["--data-dir", str(folder / name), "--file", str(file)]
    assert run(["etcd", "config", "--name", name, *places, *options]) == 0
    return file


def started(file: Path) -> list[str]:
    return [str(find_etcd().server), f"--config-file={file}"]


@pytest.mark.parametrize("name", ["pc1", "1"])
async def test_the_generated_file_runs_a_member(name: str, tmp_path: Path) -> None:
    client, peer = free_ports(2)
    file = generate(
        tmp_path, name, "--member", f"{name}=127.0.0.1", "--client-port", str(client), "--peer-port", str(peer)
    )
    url, log = f"http://127.0.0.1:{client}", tmp_path / "log"
    for _ in range(2):  # and again on the data it left
        async with running(started(file), url, log):
            assert (tmp_path / name / "member").is_dir()
            assert member_names(url) == [name]
    assert not complaints(log)


@pytest.mark.skipif(sys.platform == "darwin", reason="the only loopback address there is 127.0.0.1")
async def test_the_generated_files_run_a_cluster_of_three(tmp_path: Path) -> None:
    """Peers share a port, as on PCs, and have an address each; clients all connect to 127.0.0.1."""
    peer, *clients = free_ports(4)
    members = {f"pc{n}": f"127.0.0.{n}" for n in (1, 2, 3)}
    options = [part for item in members.items() for part in ("--member", "=".join(item))]
    options += ["--cluster-token", "wall", "--peer-port", str(peer)]
    urls = [f"http://127.0.0.1:{port}" for port in clients]
    logs = [tmp_path / f"{name}.log" for name in members]
    async with AsyncExitStack() as cluster:
        async with asyncio.TaskGroup() as starting:  # together: none is healthy before a majority runs
            for name, port, url, log in zip(members, clients, urls, logs, strict=True):
                file = generate(tmp_path, name, *options, "--client-port", str(port))
                starting.create_task(cluster.enter_async_context(running(started(file), url, log)))
        assert {tuple(member_names(url)) for url in urls} == {tuple(members)}
    assert not [message for log in logs for message in complaints(log)]


async def test_the_generated_file_runs_a_member_with_tls(tmp_path: Path) -> None:
    """With the folder of certificates that etcd/README.md describes; a client without a certificate is refused."""
    tls_dir = tmp_path / "tls"
    authority = Authority(tls_dir)
    cert, key = authority.issue("pc1")
    cert.rename(tls_dir / "pc1.crt")
    authority.ca.rename(tls_dir / "ca.crt")
    client, peer = free_ports(2)
    file = generate(
        tmp_path, "pc1", "--member", "pc1=127.0.0.1", "--client-port", str(client), "--peer-port", str(peer),
        "--tls-dir", str(tls_dir),
    )  # fmt: skip
    trusting = ssl.create_default_context(cafile=tls_dir / "ca.crt")
    url, log = f"https://127.0.0.1:{client}", tmp_path / "log"
    ours = ssl.create_default_context(cafile=tls_dir / "ca.crt")
    ours.load_cert_chain(tls_dir / "pc1.crt", key)
    async with running(started(file), url, log, ours):
        assert not healthy(url, trusting)
        assert healthy(url, ours)


async def test_a_revoked_certificate_is_refused_by_a_member_that_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """With what `nodectl pki` and `nodectl etcd config --environment` write. Other certificates are served on."""
    authorities = Authorities(tmp_path / "pki")
    authorities.init("wall")
    tls_dir = authorities.issue(Subject("etcd", "pc1")).directory
    revoked, kept = (client_context(authorities, Subject("noded", name)) for name in ("n1", "n2"))
    client, peer = free_ports(2)
    capsys.readouterr()
    assert run(
        ["etcd", "config", "--name", "pc1", "--member", "pc1=127.0.0.1", "--data-dir", str(tmp_path / "pc1"),
         "--client-port", str(client), "--peer-port", str(peer), "--tls-dir", str(tls_dir), "--peer-certs",
         "--environment", "-o", "json"]
    ) == 0  # fmt: skip
    variables = json.loads(capsys.readouterr().out)
    url, log = f"https://127.0.0.1:{client}", tmp_path / "log"
    command = ["/usr/bin/env", *(f"{name}={value}" for name, value in variables.items()), str(find_etcd().server)]
    async with running(command, url, log, kept):
        assert healthy(url, revoked)
        authorities.revoke(Subject("noded", "n1"))
        assert not healthy(url, revoked)
        assert healthy(url, kept)
    assert set(complaints(log)) == {"rejected connection on client endpoint"}


def client_context(authorities: Authorities, subject: Subject) -> ssl.SSLContext:
    own = authorities.issue(subject).directory
    return TlsFiles(ca=own / "ca.crt", cert=own / f"{subject.name}.crt", key=own / f"{subject.name}.key").context()
