"""Days on which something around us breaks, with real masters, nodes and `nodectl`."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory, Status, decode
from tests.support.cli import InProcessNodectl, Nodectl
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masterd, Masters
from tests.support.noded import nodes
from tests.support.waiting import eventually

FILE = {"name": "file", "settings": {"path": "shown.json"}}
INVENTORY = Inventory.model_validate({"nodes": {"n1": {}, "n2": {}}, "defaults": {"driver": FILE}})


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    Masterd.discard_warm()


@asynccontextmanager
async def one(etcd: EtcdCluster, keys: Keys, *arguments: str) -> AsyncIterator[Masters]:
    async with Masters(etcd, keys, arguments=arguments) as masters:
        await masters.configure(INVENTORY)
        masters.start("m1")
        await masters.wait_serving("m1")
        yield masters


# --- every kind of text ---------------------------------------------------------------------------------------------

TEXTS = {
    "emoji": "🔆👩‍👧‍👦🇩🇪✔️",
    "right to left": "שלום \u202eevil\u202c مرحبا",
    "combining": "e\u0301\u0301\u0301 กำ Z͑ͫ̓",
    "wide": "日本語のテキスト",
    "control": "a\x00b\x1b[31mred\x07\x9b\r\n\tend\x7f",
    "byte order mark": "\ufefftext\ufeff",
    "beyond the first plane": "\U0001d4d0\U0010fffd",
    "separators": "a\u2028b\u2029c\u0085d\xa0e",
    "none": "",
    "long": "🔆" * 50_000,
}


async def test_every_kind_of_text_arrives_as_it_was_sent(etcd_one: EtcdCluster, keys: Keys) -> None:
    """From the command line through journal, view, noded and status back into every form of output; the columns of a
    table stay in line, nothing in it moves a cursor, and what Python believes of the terminal's encoding changes
    nothing."""
    async with one(etcd_one, keys) as masters, nodes.run_noded(etcd_one.endpoints, keys, "n1") as noded:
        url = masters.running["m1"].url
        nodectl = InProcessNodectl([url])
        document = {text[:200]: text for text in TEXTS.values() if text} | {"none": ""}
        short = {name: text for name, text in TEXTS.items() if len(text) < 1_000}
        await masters.command("node.put", node="n1", document=document)
        arguments = json.dumps({"node": "n2", "values": short})
        said = await nodectl("command", "node.set", arguments, "-o", "json")
        assert said.json["result"]["document"] == short
        view = await masters.etcd.get(keys.document("nodes/n1"))
        assert view is not None
        assert json.loads(view.value)["document"] == document
        await noded.ready(masters.etcd, keys, 2)
        assert json.loads((noded.work / "shown.json").read_text("utf-8")) == document
        for name, text in list(short.items()):  # each in a row of its own
            await masters.command("scene.save", name=name.replace(" ", "-"), nodes={}, description=text)
        table = (await nodectl("state", "list", "scenes/")).out
        assert len(table.splitlines()) == 1 + len(short), table
        nodes_table = (await nodectl("node", "list")).out
        for text in (table, nodes_table):
            assert not set(text) & set("\x00\x1b\x07\x9b\r\x7f\u202e\ufeff\u2028"), text
        read = await nodectl("state", "get", "nodes/n1", "-o", "json")
        assert document.items() <= read.json.get("document", read.json).items()

        plain = Nodectl([url])
        for environ in ({"PYTHONIOENCODING": "cp1252"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
            said = await plain("node", "show", "n2", "-o", "json", environ=environ)
            assert (said.code, said.json["document"]) == (0, short), environ
        assert await masters.problems() == []


# --- nodes that come and go -----------------------------------------------------------------------------------------


async def test_a_node_that_is_removed_and_added_again_goes_on(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Removed, it has no desired document and idles; added again it gets one whose generation is above all before, also
    from another master, and noded obeys it."""
    async with one(etcd_one, keys) as masters, nodes.run_noded(etcd_one.endpoints, keys, "n1") as noded:
        before = (await masters.command("node.set", node="n1", values={"x": 1}))["index"]
        await noded.ready(masters.etcd, keys, before)
        only_n2 = Inventory.model_validate({"nodes": {"n2": {}}, "defaults": {"driver": FILE}})
        version = 1
        for inventory, there in ((only_n2, False), (INVENTORY, True), (only_n2, False), (INVENTORY, True)):
            version += 1
            await masters.configure(inventory, version)

            async def desired(there: bool = there) -> bool:
                return (await masters.etcd.get(keys.desired_of("n1")) is not None) == there

            await eventually(desired, f"version {version} is published")
            if there:
                status = await noded.ready(masters.etcd, keys, before + 1)
                assert status.observed_generation > before
                before = status.observed_generation
                continue
            await eventually(lambda: _phase(masters, "idle"), "noded idles")
            nodectl = InProcessNodectl([masters.running[name].url for name in masters.running])
            refused = await nodectl("node", "set", "n1", "x=2")
            assert (refused.code, refused.lines[0]) == (3, "error: there is no node 'n1' in the configuration")
            if version == 4:
                masters.start("m2")
                await masters.wait_candidate("m2")
                await masters.switchover("m2")
        assert await masters.problems() == []


async def _phase(masters: Masters, phase: str) -> bool:
    found = await masters.etcd.get(masters.keys.status_of("n1"))
    return found is not None and decode(Status, found.value, found.key).phase == phase


# --- a full disk ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(at: Path) -> Iterator[Path]:
    """A file system of 256 KiB. Skips the test where none may be mounted."""
    at.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(at)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def fill(ballast: Path) -> None:
    """Fill the file system to the last byte."""
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"x" * 512):
            pass


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs")
async def test_a_full_disk_under_a_node_is_told_and_stops_nothing(
    etcd_one: EtcdCluster, keys: Keys, tmp_path: Path
) -> None:
    """What needs no space is still done, and the status warns.

    What needs space is retried and reports the full disk. With free space all is done without a restart.
    """
    inventory = {"nodes": {"n1": {"driver": {"name": "exec", "settings": {"argv": ["{python}", "-c", "0"]}}}}}
    with small_disk(tmp_path / "disk") as work:
        async with one(etcd_one, keys) as masters, nodes.run_noded(etcd_one.endpoints, keys, "n1", work=work) as noded:
            nodectl = InProcessNodectl([masters.running["m1"].url])
            await noded.ready(masters.etcd, keys, 1)
            await masters.configure(Inventory.model_validate(inventory), 2)
            first = await noded.ready(masters.etcd, keys, 2)
            fill(work / "ballast")
            done = await masters.command("node.set", node="n1", values={"x": 1})
            await noded.ready(masters.etcd, keys, done["index"])
            warned = "node n1: cannot save the last applied state: No space left on device"

            async def told(words: str = warned) -> bool:
                return words in (await nodectl("status", "-o", "name")).out

            await eventually(told, "status warns")

            inventory["nodes"]["n1"]["driver"] = FILE
            await masters.configure(Inventory.model_validate(inventory), 3)
            await eventually(lambda: told("node n1: retrying: "), "the file cannot be written")
            assert "the disk is full" in (await nodectl("status", "-o", "name")).out
            (work / "ballast").unlink()
            last = await noded.ready(masters.etcd, keys, done["index"] + 1)
            assert json.loads((work / "shown.json").read_text()) == {"x": 1}
            await eventually(lambda: _gone(nodectl, "n1: cannot save the last applied"), "the warning goes")
            assert last.nonce == first.nonce


async def _gone(nodectl: InProcessNodectl, words: str) -> bool:
    return words not in (await nodectl("status", "-o", "name")).out


# --- a poison command -----------------------------------------------------------------------------------------------


async def test_a_poison_command_ends_two_masters_and_no_more(etcd_one: EtcdCluster, keys: Keys) -> None:
    """`nodectl` stops after two leaders were lost under it, and names them. The third master leads and takes other
    commands. It has closed the id of the poison command, so no late copy of it can end this master too."""
    async with Masters(etcd_one, keys, arguments=["--app=tests.support.poison_app:PoisonApp"]) as masters:
        await masters.configure(INVENTORY)
        for name in ("m1", "m2", "m3"):
            masters.start(name)
            await (masters.wait_serving(name) if name == "m1" else masters.wait_candidate(name))
        nodectl = Nodectl(etcd_one.endpoints, keys.cluster, timeout_s=30.0)
        said = await nodectl("command", "poison")
        assert said.code == 1, said
        assert (
            "has not taken effect, and no copy of it ever will (its id was closed at index 2): leaders m1 (term "
            in (said.lines[0])
        ), said
        assert "were lost after it was sent to them, so it is not sent to another" in said.lines[0], said
        assert "find out why before you send it again" in said.lines[0], said
        alive = [name for name, master in masters.running.items() if master.exit_code is None]
        assert len(alive) == 1
        ran = await nodectl("node", "set", "n1", "x=1")
        assert ran.code == 0, ran
        assert (await masters.leader()).record is not None
