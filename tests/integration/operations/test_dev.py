"""`nodectl dev`: a cluster on this PC comes up, is hurt, goes down, and comes back with its state."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodectl.client import Client
from nodectl.demo import wall
from nodectl.dev.cluster import DevCluster
from nodestore.processes import child_processes
from tests.support.dev_commands import CompletedCommand, left_behind, nodectl
from tests.support.waiting import eventually

INVENTORY = """
masters:
  m1: {}
  m2: { priority: 5 }
nodes:
  n1: { position: [0, 0] }
  n2: { position: [0, 1] }
defaults:
  driver: { name: process, settings: { argv: ["{python}", -m, nodectl.dev.tile], settle_s: 0.5 } }
  document: { text: hello }
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory for a cluster; whatever runs of it in the end is killed, and that nothing does is checked."""
    directory = tmp_path / "dev"
    try:
        yield directory
    finally:
        cluster = DevCluster(directory)
        for part in cluster.processes.values() if (directory / "cluster.json").exists() else ():
            if part.process is not None and part.process.alive:
                child_processes.kill_tree(part.process.identity)


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(INVENTORY)
    return path


def up(place: Path, *more: str | Path, env: dict[str, str] | None = None) -> CompletedCommand:
    return nodectl("dev", "up", "--dir", place, "--unsafe-no-fsync", "-o", "json", *more, env=env)


def client_of(ran: CompletedCommand) -> Client:
    """A client with the certificate of the cluster's user."""
    files: dict[str, Any] = {name: Path(path) for name, path in ran.json["tls"].items()}
    return Client(ran.json["endpoints"], cluster=ran.json["cluster"], **files)


def by_name(ran: CompletedCommand) -> dict[str, dict[str, object]]:
    return {item["name"]: item for item in ran.json["processes"]}


async def test_a_cluster_comes_up_goes_down_and_comes_back_with_its_state(place: Path, inventory: Path) -> None:
    first = up(place, "--members", "1", "--config", inventory)
    assert first.code == 0, first.stderr
    processes = by_name(first)
    assert {name: item["program"] for name, item in processes.items()} == {
        "e1": "etcd", "m1": "masterd", "m2": "masterd", "n1": "noded", "n2": "noded",
    }  # fmt: skip
    assert first.json["running"] is True
    assert (place / "log" / "m1.log").samefile(str(processes["m1"]["log"]))
    assert {str(url).partition(":")[0] for item in processes.values() for url in dict(item["urls"]).values()} == {  # type: ignore[call-overload]
        "https"
    }
    seen = nodectl("--config", first.json["config"], "status", "-o", "json")
    assert seen.code == 0, seen.stderr
    async with client_of(first) as client:
        await client.node_set("n1", {"text": "kept"})

        async def told() -> bool:
            return {master["id"]: master["priority"] for master in await client.masters()} == {"m1": 0, "m2": 5}

        await eventually(told)
    await eventually(lambda: wall.tile_shows(place / "nodes" / "n1", {"text": "kept"}))

    again = up(place)
    assert {name: item["pid"] for name, item in by_name(again).items()} == {
        name: item["pid"] for name, item in processes.items()
    }

    assert nodectl("dev", "down", "--dir", place).code == 0
    stopped = nodectl("dev", "status", "--dir", place, "-o", "json")
    assert stopped.code == 0
    assert not any(item["running"] for item in stopped.json["processes"])
    assert left_behind(place) == []

    back = up(place)
    assert back.code == 0, back.stderr
    assert {name: item["urls"] for name, item in by_name(back).items()} == {
        name: item["urls"] for name, item in processes.items()
    }
    async with client_of(back) as client:
        assert (await client.node("n1"))["document"] == {"text": "kept"}
    assert wall.tile_shows(place / "nodes" / "n1", {"text": "kept"})
    assert nodectl("dev", "down", "--dir", place).code == 0
    assert left_behind(place) == []


@pytest.mark.nightly
async def test_a_cluster_without_tls(place: Path, inventory: Path) -> None:
    ran = up(place, "--members", "1", "--config", inventory, "--insecure")
    assert ran.code == 0, ran.stderr
    assert ran.json["tls"] is None
    assert not (place / "pki").exists()
    async with Client(ran.json["masters"]) as client:
        assert (await client.leader()).url.startswith("http://")
    assert nodectl("--config", ran.json["config"], "status").code == 0
    assert nodectl("dev", "down", "--dir", place).code == 0


@pytest.mark.nightly
def test_single_processes_are_killed_frozen_and_started_again(place: Path, inventory: Path) -> None:
    assert up(place, "--members", "1", "--config", inventory).code == 0
    for name in ("n1", "m1"):
        assert nodectl("dev", "kill", name, "--dir", place).code == 0
    assert nodectl("dev", "suspend", "m2", "--dir", place).code == 0
    table = nodectl("dev", "status", "--dir", place)
    states = {line.split()[0]: line.split()[2] for line in table.stdout.splitlines()[1:]}
    assert states == {"e1": "running", "m1": "stopped", "m2": "frozen", "n1": "stopped", "n2": "running"}
    assert nodectl("dev", "suspend", "m1", "--dir", place).code == 4
    assert nodectl("dev", "start", "m1", "--dir", place).code == 0
    assert nodectl("dev", "kill", "n9", "--dir", place).code == 3

    healed = up(place)
    assert healed.code == 0, healed.stderr
    assert all(item["state"] == "running" for item in by_name(healed).values())
    assert nodectl("dev", "stop", "n2", "--dir", place).code == 0
    assert nodectl("dev", "down", "--dir", place).code == 0
    assert left_behind(place) == []


@pytest.mark.nightly
async def test_a_port_taken_meanwhile_is_told_and_a_recycled_pid_is_left_alone(place: Path, inventory: Path) -> None:
    ran = up(place, "--members", "1", "--config", inventory)
    assert ran.code == 0, ran.stderr
    assert nodectl("dev", "down", "--dir", place).code == 0
    port = int(str(by_name(ran)["m1"]["urls"]["api"]).rpartition(":")[2])  # type: ignore[index]
    with socket.socket() as somebody:
        somebody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that were closed linger
        somebody.bind(("127.0.0.1", port))
        somebody.listen()
        refused = up(place)
        assert refused.code == 4
        assert f"port {port}, the api port of m1, is taken by" in refused.stderr

    stranger = await child_processes.spawn(
        [sys.executable, "-c", "input()"], stdin=child_processes.PIPE, die_with_parent=True
    )
    try:
        noted = json.loads((place / "cluster.json").read_text())
        noted["parts"]["n1"]["process"]["pid"] = stranger.pid  # as if the system had given the pid away again
        (place / "cluster.json").write_text(json.dumps(noted))
        assert nodectl("dev", "kill", "n1", "--dir", place).code == 0
        assert nodectl("dev", "down", "--dir", place).code == 0
        assert child_processes.is_alive(stranger.identity)
    finally:
        await stranger.stop(1.0)


def test_a_process_that_does_not_come_up_is_quoted_with_its_log(place: Path, inventory: Path) -> None:
    broken = f'"{sys.executable}" -c "import sys; sys.exit(\'it is Monday\')"'
    ran = up(place, "--members", "1", "--config", inventory, env={"NODECTL_DEV_MASTERD": broken})
    assert ran.code == 1
    assert "it is Monday" in ran.stderr
    assert str(place / "log" / "m") in ran.stderr
    assert nodectl("dev", "down", "--dir", place).code == 0
    assert left_behind(place) == []


def test_a_directory_without_a_cluster_is_told_so(place: Path) -> None:
    for verb in ("status", "down"):
        ran = nodectl("dev", verb, "--dir", place)
        assert ran.code == 3
        assert "nodectl dev up" in ran.stderr


def test_a_configuration_that_is_wrong_is_told_with_its_line(place: Path, inventory: Path) -> None:
    inventory.write_text("nodes:\n  n1: { positon: [0, 0] }\n")
    ran = up(place, "--members", "1", "--config", inventory)
    assert ran.code == 2
    assert "small.yaml:2" in ran.stderr
    assert left_behind(place) == []
