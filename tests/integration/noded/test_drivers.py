"""noded as a process with driver `file`, and with a program whose health is checked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from nodestore.schema.keys import Keys
from nodestore.schema.models import Desired, Spec
from tests.support.etcd_cluster import EtcdCluster
from tests.support.noded.noded_rig import Rig, gone, rig, runs

COUNT = "import os; open('count', 'ab').write(open(os.environ['NODECTL_FILE'], 'rb').read() + b';')"
RELOAD = {"argv": ["{python}", "-c", COUNT]}

PICTURE = """
import http.server, json, os
class Show(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if os.path.exists("black") else 200)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Show)
document = json.load(open(os.environ["NODECTL_DOCUMENT"]))
with open("port.new", "w") as file:
    file.write(str(server.server_port))
os.replace("port.new", "port")
with open("shown.new", "w") as file:
    json.dump({"document": document, "pid": os.getpid()}, file)
os.replace("shown.new", "shown.json")
server.serve_forever()
"""
"""A program that answers 503 while its screen is black. It says at which port; the check goes there."""

ASK = """
import sys, urllib.request
try:
    urllib.request.urlopen(f"http://127.0.0.1:{open('port').read()}/", timeout=20)
except Exception as error:
    sys.exit(str(error))
"""


async def order(node: Rig, generation: int, settings: Any, **document: Any) -> None:
    spec = Spec(driver="file", settings=settings, document=document)
    await node.put(Desired(epoch=1, term=5, generation=generation, spec=spec))


def content_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


async def holds(node: Rig, path: Path, content: bytes) -> None:
    async def look() -> bool:
        return content_of(path) == content

    await node.until(look, f"{path.name} to hold {content!r}")


async def test_file_is_written_and_kept(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """It follows the document, is put right at a tick with the reason in the status, and outlives a kill of noded."""
    path = tmp_path / "etc" / "show.conf"
    settings = {"path": str(path), "template": "scene=${scene}", "reload": RELOAD}
    async with rig(etcd_one, keys, tmp_path) as node:
        count = node.work / "count"
        await order(node, 1, settings, scene="one")
        noded = await node.start()
        await node.ready(1)
        assert path.read_bytes() == b"scene=one"
        path.write_bytes(b"mine")
        status = await node.reached(lambda status: status.reason.endswith("was altered"), "the reason")
        await holds(node, path, b"scene=one")
        await order(node, 2, settings, scene="two")
        status = await node.ready(2)
        assert (status.actual["path"], status.actual["reloads"]) == (str(path), 3)
        await noded.kill()
        path.unlink()
        await node.start()
        await holds(node, path, b"scene=two")
        await holds(node, count, b"scene=one;scene=one;scene=two;scene=two;")
        await node.reached(lambda now: now.phase == "ready" and now.nonce != status.nonce, "the new noded")


async def test_template_that_does_not_fit(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """The missing key is named, the file before stays and is still kept, and a document that fits ends it."""
    settings = {"path": "show.conf", "template": "scene=${scene}"}
    async with rig(etcd_one, keys, tmp_path) as node:
        path = node.work / "show.conf"
        await order(node, 1, settings, scene="one")
        await node.start()
        await node.ready(1)
        await order(node, 2, settings, colour="red")
        status = await node.reached(lambda status: status.phase == "failed", "the refusal")
        assert (
            status.error
            == "cannot make show.conf: the template needs the key 'scene', which the document does not have"
        )
        path.unlink()
        await holds(node, path, b"scene=one")
        await order(node, 3, settings, scene="three")
        assert (await node.ready(3)).error is None
        assert path.read_bytes() == b"scene=three"


@pytest.mark.skipif(sys.platform == "win32", reason="a file in the way of a directory is another error there")
async def test_what_cannot_be_written_is_tried_again(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """noded reports the reason in a sentence, and writes as soon as it can."""
    blocked = tmp_path / "etc"
    blocked.write_bytes(b"not a directory")
    async with rig(etcd_one, keys, tmp_path) as node:
        await order(node, 1, {"path": str(blocked / "show.json")}, scene="one")
        await node.start()
        status = await node.reached(lambda status: status.attempts >= 2, "two attempts")
        assert status.phase == "retrying"
        assert str(status.error).startswith(f"cannot write {blocked / 'show.json'}: ")
        blocked.unlink()
        await node.ready(1)
        assert json.loads((blocked / "show.json").read_bytes()) == {"scene": "one"}


async def test_unhealthy_program_is_restarted(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """A program that runs but fails its checks is reported, restarted with pauses, and reported again once it is
    healthy."""
    health = {"argv": ["{python}", "-c", ASK], "every_s": 0.2, "timeout_s": 20, "failures": 2, "start_s": 1}
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1, code=PICTURE, health=health, grace_s=0)
        await node.start("--tick", "600")
        pid = await node.shows("one")
        await node.reached(lambda status: status.actual.get("health") == "healthy", "health")
        (node.work / "black").touch()
        status = await node.reached(lambda status: status.actual.get("health") == "unhealthy", "the finding")
        assert str(status.actual["health_error"]).startswith("HTTP Error 503")
        status = await node.reached(lambda status: status.attempts >= 2, "two attempts")
        assert status.phase == "retrying"
        assert str(status.error).startswith("the program is unhealthy: ")
        assert not runs(pid)
        (node.work / "black").unlink()
        status = await node.reached(
            lambda status: status.phase == "ready" and status.actual.get("health") == "healthy", "health again"
        )
        assert (status.error, status.attempts) == (None, 0)
        last = status.actual["pid"]
        await node.etcd.delete(keys.desired_of("n1"))
        await gone(node, last)
