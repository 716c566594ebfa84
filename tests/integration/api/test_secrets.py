"""Canaries in every place that can hold a secret, and a search for them in everything that the cluster shows or writes.

Etcd holds secrets, and so do the files from which noded and the program read them. Nothing else does.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import aiohttp
import pytest

from masterd.api.access.rights import RIGHTS, Right
from nodectl import Client
from nodestore.errors import Invalid, NodectlError
from nodestore.pki.private_files import is_exposed
from nodestore.schema.keys import Keys
from nodestore.schema.models import Desired, decode
from tests.support.cli import InProcessNodectl
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masters
from tests.support.noded.noded_rig import NODE, Rig
from tests.support.waiting import eventually

CANARY = "canary-"
SOURCE = f"# it was {CANARY}comment before\nnodes: ..."
CODE = "import os, sys; sys.exit(os.environ['STREAM_PASSWORD'] + ' and ' + sys.argv[2] + ' are refused')"
INVENTORY = {
    "secret_fields": ["pin", "player.stream"],
    "nodes": {
        NODE: {
            "document": {"pin": f"{CANARY}node", "player": {"stream": f"{CANARY}player"}},
            "driver": {
                "name": "exec",
                "settings": {
                    "argv": ["{python}", "-c", CODE, "--pin", f"{CANARY}option"],
                    "env": {"STREAM_PASSWORD": f"{CANARY}env"},
                },
            },
        },
        "n2": {"document": {"url": f"http://ann:{CANARY}url@wall/"}},
    },
    "groups": {"left": {"nodes": [NODE], "document": {"api_key": f"{CANARY}group"}}},
    "defaults": {"driver": {"name": "exec", "settings": {"argv": ["{python}", "-c", "pass"]}}},
    "settings": {"pin": f"{CANARY}setting"},
}
HOLDERS = ("actions/", "config/", "desired/", "journal/", "snapshots/", "state/")
"""The keys that may hold secrets, as docs/security.md says."""
STREAM_S = 1.0


async def test_no_secret_is_shown_or_logged(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    arguments = [
        "--require-credentials",
        "--app=tests.support.access.vault_app:app",
        f"--state-dir={tmp_path / 'state'}",
    ]
    (tmp_path / "state").mkdir()
    async with Masters(etcd_one, keys, arguments=arguments) as masters:
        masters.start("m1")
        await masters.wait_serving("m1")
        url, rig = masters.running["m1"].url, Rig(masters.etcd, etcd_one.endpoints, keys, tmp_path)
        async with Client(etcd_one.endpoints, cluster=keys.cluster) as bootstrap:
            tokens = {
                role: str((await bootstrap.token_create(role, role))["token"])
                for role in ("admin", "viewer", "operator")
            }
        try:
            async with Client(url, token=tokens["admin"], read_timeout_s=30.0) as admin:
                await _plant(admin)
                noded = await rig.start()
                await rig.reached(lambda status: status.error is not None, "the driver fails")
                await _check_operator(url, tokens["operator"])
                assert CANARY in str(await admin.document("vault/one"))
                assert CANARY in str(await admin.config())
                assert CANARY in str(await admin.history())
                await _mark_another(admin, masters, keys)
            shown = {f"table: {name}": text for name, text in (await _tables(url, tokens["admin"], tmp_path)).items()}
            for role in ("viewer", "operator"):
                shown |= {f"{role}: {path}": text for path, text in (await _answers(url, tokens[role])).items()}
            shown["log of masterd"] = masters.running["m1"].log.read_text("utf-8")
            shown["log of noded"] = noded.log
            for file in (tmp_path / "state").rglob("*"):
                shown[str(file)] = file.read_text("utf-8", "replace") if file.is_file() else ""
        finally:
            await rig.close()
        leaks = {name: _around(text) for name, text in shown.items() if CANARY in text}
        assert leaks == {}
        assert "failed in the application" in shown["log of masterd"]
        assert "will be tried again" in shown["log of noded"]
        await _check_stored(masters, keys, _files(tmp_path / "work"))


async def _plant(admin: Client) -> None:
    await admin.config_apply(INVENTORY, source=SOURCE)

    async def adopted() -> bool:
        return (await admin.config())["adopted"] is not None

    await eventually(adopted, "the configuration is in force")
    assert (await admin.command("vault.open", {"pin": f"{CANARY}argument"})).result == {"pin": f"{CANARY}argument"}
    with pytest.raises(NodectlError, match=r"ValueError\('\*\*\* is wrong'\)"):
        await admin.command("vault.fail", {"pin": f"{CANARY}failure"})
    await admin.node_set(NODE, {"pin": f"{CANARY}set", "token": f"{CANARY}token"})
    await admin.command("node.act", {"node": "n2", "action": "restart", "args": {"pin": f"{CANARY}action"}})
    await admin.snapshot_save("one")


async def _mark_another(admin: Client, masters: Masters, keys: Keys) -> None:
    """A mark that changes no spec reaches noded too, and changes no generation."""
    key = keys.desired_of(NODE)

    async def desired() -> Desired:
        found = await masters.etcd.get(key)
        assert found is not None
        return decode(Desired, found.value, key)

    before = await desired()
    assert before.secret_fields[:2] == ("pin", "player.stream")
    await admin.config_apply({**INVENTORY, "secret_fields": ["pin", "player.stream", "extra"]}, source=SOURCE)

    async def is_marked() -> bool:
        return "extra" in (await desired()).secret_fields

    await eventually(is_marked, "the desired state holds the new mark")
    assert (await desired()).order == before.order


async def _check_operator(url: str, token: str) -> None:
    """An operator may send a secret, but not write back the mask in its place."""
    async with Client(url, token=token, read_timeout_s=30.0) as operator:
        assert (await operator.document("vault/one"))["document"] == {"pin": "***", "door": {"code": "***"}}
        with pytest.raises(Invalid, match="stands for a secret that was not shown"):
            await operator.command("vault.open", {"pin": "***"})
        [opened, *_] = (await operator.history(command="vault.open"))["entries"]
        assert "problem" not in opened
        settled = await operator.outcome_of(opened["id"], 0)  # of a command that the admin sent
        assert (settled["took_effect"], settled["result"]) == (True, {"pin": "***"})


async def _answers(url: str, token: str) -> dict[str, str]:
    """What this principal reads at every route."""
    names = {"{node}": NODE, "{path}": "vault/one", "{name}": "one"}
    found: dict[str, str] = {}
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:

        async def read(path: str, right: Right) -> None:
            query = {"after": "0", "spec": "true"} if path == "/v1/events" or "nodes" in path else {}
            for pattern, name in names.items():
                path = path.replace(pattern, name)
            found[path] = await _read(session, url + path, query, is_stream=right.is_stream)
            assert found[path], path

        routes = [(path, right) for (method, path), right in RIGHTS.items() if method == "GET"]
        # The log of a program is what the program writes.
        await asyncio.gather(*(read(*item) for item in routes if item[1].least == "viewer" and "/log" not in item[0]))
    return found


async def _read(session: aiohttp.ClientSession, url: str, query: dict[str, str], *, is_stream: bool) -> str:
    async with session.get(url, params=query) as answer:
        assert answer.status == 200, (url, await answer.text())
        if not is_stream:
            return await answer.text()
        text = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STREAM_S):
                async for chunk in answer.content.iter_any():
                    text += chunk
        return text.decode()


async def _tables(url: str, token: str, directory: Path) -> dict[str, str]:
    """What nodectl shows to an admin in tables, and what it prints for those who are asked for help."""
    file = directory / "token"
    file.write_text(token)
    nodectl = InProcessNodectl([url])
    commands = [
        "status", "status -o json", "status -o yaml", "node list", f"node show {NODE}",
        "state list", "state get vault/one", "history -n 100", "snapshot show one", "audit",
    ]  # fmt: skip
    found = {}
    for line in commands:
        output = await nodectl("--token-file", str(file), *line.split())
        assert output.out, (line, output.err)
        found[line] = output.out + output.err
    return found


def _around(text: str) -> str:
    at = text.index(CANARY)
    return text[max(0, at - 150) : at + 50]


def _files(directory: Path) -> list[Path]:
    """The files that hold a canary."""
    files = [file for file in directory.rglob("*") if file.is_file()]
    return [file for file in files if CANARY.encode() in file.read_bytes()]


async def _check_stored(masters: Masters, keys: Keys, files: list[Path]) -> None:
    """Where secrets are: the keys that the documentation names, and files of their owner."""
    stored = await masters.etcd.range(keys.prefix)
    holders = {kv.key.removeprefix(keys.prefix) for kv in stored.kvs if CANARY.encode() in kv.value}
    assert {holder for holder in holders if not holder.startswith(HOLDERS)} == set()
    assert {holder.partition("/")[0] + "/" for holder in holders} == set(HOLDERS)
    assert [file for file in files if is_exposed(file)] == []
