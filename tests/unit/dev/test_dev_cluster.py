"""The parts of a development cluster that need no processes: command lines, records, ports, locks, tiles, drawing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from nodectl.demo import wall
from nodectl.dev import launch, ports, record, tile
from nodectl.dev.cluster import DevCluster
from nodectl.dev.lock import locked
from nodectl.dev.places import default_directory, wall_inventory
from nodectl.dev.record import Part, Process, Record
from nodectl.inventory.file import load_inventory
from nodestore.errors import Garbage, NodectlError, NotFound, Unavailable
from nodestore.processes import child_processes
from nodestore.support.atomic_files import replace_file
from nodestore.support.boot import kernel_boot_id
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[3]
WAIT_S = 30.0


def cluster_record() -> Record:
    parts = {
        "e1": Part(program="etcd", ports={"client": 15001, "peer": 15002}),
        "e2": Part(program="etcd", ports={"client": 15003, "peer": 15004}),
        "m1": Part(program="masterd", ports={"api": 15005}),
        "n1": Part(program="noded"),
        "n2": Part(program="noded"),
    }
    return Record(cluster="wall", token="t", parts=parts)


# --- what is shipped ---


def test_the_packaged_wall_is_the_example() -> None:
    assert wall_inventory().read_bytes() == (ROOT / "examples" / "wall" / "wall.yaml").read_bytes()


def test_the_packaged_wall_is_three_masters_and_nine_nodes_with_the_tile_program() -> None:
    inventory = load_inventory(wall_inventory()).inventory
    assert (len(inventory.masters), len(inventory.nodes)) == (3, 9)
    assert inventory.defaults.driver is not None
    assert "nodectl.dev.tile" in inventory.defaults.driver.settings["argv"]


# --- command lines ---


def test_a_member_waits_for_its_disk_unless_told_not_to() -> None:
    found, places = cluster_record(), launch.ClusterPaths(Path("/d"))
    argv = launch.launch_command(found, "e1", places, Path("/bin/etcd"), {}).argv
    assert "--unsafe-no-fsync" not in argv
    assert "--initial-cluster=e1=http://127.0.0.1:15002,e2=http://127.0.0.1:15004" in argv
    assert "--listen-client-urls=http://127.0.0.1:15001" in argv
    found = found.model_copy(update={"unsafe_no_fsync": True})
    assert "--unsafe-no-fsync=true" in launch.launch_command(found, "e1", places, Path("/bin/etcd"), {}).argv


def test_a_masterd_is_told_the_limits_that_the_members_have() -> None:
    found, places = cluster_record(), launch.ClusterPaths(Path("/d"))
    master = launch.launch_command(found, "m1", places, Path("etcd"), {}).argv
    member = launch.launch_command(found, "e1", places, Path("etcd"), {}).argv
    assert master[:3] == [sys.executable, "-m", "masterd"]
    for option in ("--max-txn-ops", "--max-request-bytes"):
        assert f"{option}={master[master.index(option) + 1]}" in member
    assert "--priority" not in master, "the configuration says it"


def test_each_node_asks_another_member_first() -> None:
    found, places = cluster_record(), launch.ClusterPaths(Path("/d"))
    asked = [launch.launch_command(found, name, places, Path("etcd"), {}).argv for name in ("n1", "n2")]
    first = [argv[argv.index("--endpoints") + 1].split(",")[0] for argv in asked]
    assert first == ["127.0.0.1:15001", "127.0.0.1:15003"]


def test_another_program_can_be_run_in_place_of_masterd() -> None:
    environ = {"NODECTL_DEV_MASTERD": '"/opt/an old/python" -m masterd'}
    argv = launch.launch_command(cluster_record(), "m1", launch.ClusterPaths(Path("/d")), Path("etcd"), environ).argv
    assert argv[:4] == ["/opt/an old/python", "-m", "masterd", "--id"]


def test_settings_in_the_environment_do_not_reach_the_processes() -> None:
    environ = {
        "NODECTL_USER": "me", "ETCD_NAME": "x", "NODECTL_RUN": "another noded's", "PATH": "/bin",
        "NODECTL_ALLOW_OLD_ETCD": "1",
    }  # fmt: skip
    assert launch.inherited_environment(environ) == {"PATH": "/bin", "NODECTL_ALLOW_OLD_ETCD": "1"}


def test_the_directory_can_be_named_in_the_environment() -> None:
    assert default_directory({"NODECTL_DEV_DIR": "/x"}) == Path("/x").absolute()
    assert default_directory({"XDG_STATE_HOME": "/s", "LOCALAPPDATA": "/s"}) == Path("/s/nodectl/dev")


# --- what is noted ---


def test_the_record_is_read_as_it_was_saved(tmp_path: Path) -> None:
    found = cluster_record()
    found.parts["n1"].process = Process(pid=1, created=2.5, boot="b", argv=["x"])
    record.save(tmp_path, found)
    assert record.load(tmp_path) == found
    assert record.load(tmp_path / "other") is None


def test_a_record_that_is_no_record_is_told_with_its_name(tmp_path: Path) -> None:
    (tmp_path / record.FILE).write_text("{}")
    with pytest.raises(Garbage, match=r"cluster\.json"):
        record.load(tmp_path)


def test_a_process_counts_as_ours_only_by_pid_creation_time_and_boot() -> None:
    me = child_processes.identify(os.getpid())
    assert me is not None
    ours = Process(pid=me.pid, created=me.created, boot=kernel_boot_id(), argv=[])
    assert ours.alive
    assert not ours.model_copy(update={"created": me.created - 1}).alive
    assert not ours.model_copy(update={"boot": "another"}).alive


def test_where_there_is_no_cluster_one_is_told_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nodectl dev up"):
        DevCluster(tmp_path).processes  # noqa: B018


async def test_a_process_that_ends_before_anybody_looks_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(pid: int) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(WAIT_S)

    monkeypatch.setattr(child_processes, "identify", too_late)
    monkeypatch.setenv("NODECTL_DEV_MASTERD", f'"{sys.executable}" -c "import sys; sys.exit(\'it is Monday\')"')
    noted = cluster_record()
    noted.parts["m1"].ports = {"api": ports.free_ports(1)[0]}
    record.save(tmp_path, noted)
    cluster = DevCluster(tmp_path, etcd=tmp_path / "etcd")
    with pytest.raises(NodectlError, match=r"m1 \(masterd\) has ended(.|\n)*it is Monday"):
        await cluster.start("m1")


# --- ports and locks ---


def test_ports_are_free_distinct_and_not_ephemeral() -> None:
    found = ports.free_ports(20)
    assert len(set(found)) == 20
    assert not set(found) & set(ports.ephemeral_ports())
    assert all(map(ports.is_free, found))


def test_a_port_with_a_listener_is_not_free_and_its_owner_is_named() -> None:
    with socket.socket() as server:
        server.bind((ports.HOST, 0))
        server.listen()
        port = server.getsockname()[1]
        assert not ports.is_free(port)
        assert str(os.getpid()) in ports.describe_listener(port)


def test_the_lock_is_held_by_one_and_free_again_afterwards(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(Unavailable, match="another nodectl"), locked(tmp_path, wait_s=0):
        pass
    with locked(tmp_path, wait_s=0):
        pass


# --- the tile ---


def test_a_tile_is_read_as_it_was_written() -> None:
    document = {"colour": "#ff0000", "text": "a: b\nc", "brightness": 3, "on": None}
    assert tile.decode(tile.encode("n1", document)) == {"node": "n1", **document}
    with pytest.raises(ValueError, match="not a line"):
        tile.decode("rubbish")


@pytest.mark.parametrize(
    ("colour", "parts"), [("#ff8001", (255, 128, 1)), ("red", None), ("#12345g", None), (7, None), (None, None)]
)
def test_colours(colour: object, parts: tuple[int, int, int] | None) -> None:
    assert tile.rgb(colour) == parts


def test_a_text_cannot_smuggle_escape_sequences_into_a_terminal() -> None:
    assert "\x1b" not in tile.render_tile("n1", {"text": "\x1b[2Jx"})


async def test_the_tile_program_shows_each_document_and_survives_garbage(tmp_path: Path) -> None:
    source = tmp_path / "document.json"
    source.write_text('{"text": "one"}')
    environment = {**os.environ, "NODECTL_NODE": "n1", "NODECTL_DOCUMENT": str(source)}
    child = await child_processes.spawn(
        [sys.executable, "-m", "nodectl.dev.tile"], cwd=tmp_path, env=environment, stdout=tmp_path / "log",
        die_with_parent=True,
    )  # fmt: skip
    try:
        await eventually(lambda: wall.tile_shows(tmp_path, {"node": "n1", "text": "one"}))
        _replace(source, "{")
        await eventually(lambda: "not JSON" in (tmp_path / "log").read_text())
        assert wall.tile_shows(tmp_path, {"text": "one"})
        _replace(source, '{"text": "two"}')
        await eventually(lambda: wall.tile_shows(tmp_path, {"text": "two"}))
        (tmp_path / "tile.txt").unlink()
        await eventually(lambda: wall.tile_shows(tmp_path, {"text": "two"}), "the tile is written again")
        assert await child.stop(5.0) == 0
    finally:
        child.kill_tree()


def _replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    replace_file(new, path)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is counted differently elsewhere")
async def test_the_tile_program_is_small(tmp_path: Path) -> None:
    """One runs on every node: nothing heavy may creep in through the package."""
    source = tmp_path / "document.json"
    source.write_text("{}")
    environment = {**os.environ, "NODECTL_DOCUMENT": str(source)}
    child = await child_processes.spawn(
        [sys.executable, "-m", "nodectl.dev.tile"], cwd=tmp_path, env=environment, stdout=tmp_path / "log"
    )
    try:
        await eventually((tmp_path / "tile.txt").exists)
        assert psutil.Process(child.pid).memory_info().rss < 15 << 20
    finally:
        await child.stop(5.0)


def test_the_tile_program_says_what_it_needs() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "NODECTL_DOCUMENT"}
    done = subprocess.run(
        [sys.executable, "-m", "nodectl.dev.tile"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert "NODECTL_DOCUMENT" in done.stderr


# --- the wall ---


def test_the_wall_is_drawn_by_position_and_a_missing_tile_is_dark() -> None:
    laid = wall.grid({"a": (0, 0), "b": (0, 1), "c": (1, 1), "d": None})
    assert laid == [["a", "b"], [None, "c"], ["d"]]
    tiles = {"a": {"colour": "#000000", "text": "x"}, "b": None}
    text = "\n".join(wall.render_plain(laid, tiles))
    assert "#000000 x" in text
    assert "(dark)" in text
    assert [len(line) for line in wall.render_plain(laid, tiles)[:3]] == [35, 35, 35]
    assert "(dark)" in wall.render_coloured(laid, tiles)[1].plain


def test_a_scene_covers_any_number_of_nodes() -> None:
    names = [f"n{number}" for number in range(12)]
    assert list(wall.scene_documents(wall.RAINBOW, names)) == names


def test_half_a_tile_is_no_tile(tmp_path: Path) -> None:
    assert wall.read_tile(tmp_path) is None
    (tmp_path / "tile.txt").write_text("text: {")
    assert wall.read_tile(tmp_path) is None


# --- signals ---


def test_demo_leaves_an_ignored_signal_ignored() -> None:
    """A signal that is ignored at the start stays ignored, as with `nohup nodectl demo --stay`."""
    from nodectl.demo.interrupts import Signals

    if not hasattr(signal, "SIGHUP"):
        pytest.skip("this system has no SIGHUP")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def inside() -> object:
        with Signals().handle_signals():
            return signal.getsignal(signal.SIGHUP)

    try:
        assert asyncio.run(inside()) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_outcome_says_held_only_if_every_promise_that_was_tried_did() -> None:
    from nodectl.demo.play import DemoOutcome
    from nodectl.workload.verdicts import Promise

    good, bad, untried = Promise("a"), Promise("b"), Promise("c")
    good.judge("1")
    bad.judge("2", ["it did not"])
    assert DemoOutcome(1, [good, untried], 1.0).held
    assert not DemoOutcome(1, [good, bad], 1.0).held
    assert not DemoOutcome(1, [untried], 1.0).held
    assert json.loads(json.dumps(DemoOutcome(1, [good, bad], 1.0).described()))["held"] is False
