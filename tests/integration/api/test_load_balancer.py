"""A real HAProxy, with the configuration of docs/load-balancers.md, follows the leader over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from nodectl import Client
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory, NodeConfig
from tests.support.doc_examples import examples
from tests.support.etcd_cluster import EtcdCluster, free_ports
from tests.support.masters import UNTIL_IT_DIES, Masterd, Masters
from tests.support.waiting import eventually

NAMES = ("pc1", "pc2", "pc3")
TAKEOVER_S = 30.0


@pytest.fixture(scope="module", autouse=True)
def _warm_masters_end() -> Iterator[None]:
    yield
    Masterd.discard_warm()


@dataclass(frozen=True, slots=True)
class Balanced:
    """Three masters with TLS that require credentials, and the URL of a HAProxy in front of them."""

    masters: Masters
    urls: dict[str, str]
    balancer: str
    session: aiohttp.ClientSession

    async def leading(self) -> list[str]:
        """The masters that answer 200 to `/leader`."""
        return [name for name, url in self.urls.items() if await self._status(f"{url}/leader") == 200]

    async def ready(self) -> list[str]:
        return [name for name, url in self.urls.items() if await self._status(f"{url}/ready") == 200]

    async def _status(self, url: str) -> int | None:
        try:
            async with self.session.head(url, headers={"Authorization": ""}) as answer:
                return answer.status
        except aiohttp.ClientError:
            return None

    async def served_by(self) -> tuple[str, str] | None:
        """The name and role of the master to which HAProxy leads; None without an answer."""
        try:
            async with self.session.get(f"{self.balancer}/v1/health") as answer:
                health = await answer.json()
                return health["id"], health["role"]
        except aiohttp.ClientError:
            return None

    async def switchover(self, to: str) -> None:
        async with self.session.post(f"{self.balancer}/v1/leader/switchover", json={"to": to}) as answer:
            assert answer.status == 200, await answer.text()

    async def command(self, id: str, after: int) -> dict[str, Any] | None:
        """Send one command through HAProxy; None if it must be repeated."""
        body = {"id": id, "after": after, "name": "node.set", "args": {"node": "n1", "values": {"x": id}}}
        try:
            async with self.session.post(f"{self.balancer}/v1/commands", json=body) as answer:
                found: dict[str, Any] = await answer.json(content_type=None)
        except aiohttp.ClientError:
            return None
        assert answer.status in (200, 503), found
        return found if answer.status == 200 else None


def _haproxy() -> str:
    found = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if found is None:
        pytest.skip("HAProxy is not installed: on Debian, apt-get install haproxy")
    return found


@contextlib.asynccontextmanager
async def _balancer(folder: Path, ports: dict[str, int], authority: Path) -> AsyncIterator[str]:
    """The URL of a HAProxy with the published configuration, but for addresses and paths."""
    text, port = examples("load-balancers.md")["example", "haproxy"], free_ports(1)[0]
    for number, name in enumerate(NAMES, start=1):
        text = _replaced(text, f"10.0.0.{number}:8401", f"127.0.0.1:{ports[name]}")
    text = _replaced(
        _replaced(text, "bind :8400", f"bind 127.0.0.1:{port}"), "/etc/haproxy/nodectl-ca.crt", str(authority)
    )
    (folder / "haproxy.cfg").write_text(text, "utf-8")
    with (folder / "haproxy.log").open("wb") as log:
        running = await asyncio.create_subprocess_exec(
            _haproxy(), "-db", "-f", folder / "haproxy.cfg", stdout=log, stderr=log
        )
    try:
        yield f"https://127.0.0.1:{port}"
    finally:
        has_ended = running.returncode is not None
        if not has_ended:
            running.kill()
        await running.wait()
    assert not has_ended, (folder / "haproxy.log").read_text("utf-8")


def _replaced(text: str, old: str, new: str) -> str:
    assert len(re.findall(re.escape(old), text)) == 1, old
    return text.replace(old, new)


@contextlib.asynccontextmanager
async def _balanced(cluster: EtcdCluster, keys: Keys, folder: Path) -> AsyncIterator[Balanced]:
    authorities = Authorities(folder / "pki")
    await asyncio.to_thread(authorities.init, "plant")
    authority, ports = authorities.directory / "ca.crt", dict(zip(NAMES, free_ports(3), strict=True))
    urls = {name: f"https://127.0.0.1:{port}" for name, port in ports.items()}
    async with Masters(cluster, keys, arguments=["--require-credentials", *UNTIL_IT_DIES]) as masters:
        await masters.configure(Inventory(nodes={"n1": NodeConfig()}))
        for name in NAMES:
            own = (await asyncio.to_thread(authorities.issue, Subject("masterd", name))).directory
            tls = [f"--tls-ca={authority}", f"--tls-cert={own / f'{name}.crt'}", f"--tls-key={own / f'{name}.key'}"]
            masters.start(name, arguments=[f"--listen=127.0.0.1:{ports[name]}", f"--advertise={urls[name]}", *tls])
            await masters.wait_candidate(name)
        async with Client(cluster.endpoints, cluster=keys.cluster) as bootstrap:
            token = (await bootstrap.token_create("lb", "maintainer"))["token"]
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(authority)))
        async with (
            _balancer(folder, ports, authority) as balancer,
            aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {token}"}) as session,
        ):
            yield Balanced(masters, urls, balancer, session)


async def test_haproxy_follows_the_leader(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    _haproxy()
    async with _balanced(etcd_one, keys, tmp_path) as plant:
        await _all_ready(plant, set(NAMES))
        (first,) = await plant.leading()
        await _leads_to(plant, first)
        before = await plant.command("one", 0)
        assert before is not None
        plant.masters.running[first].kill()
        await plant.masters.expire(first)
        after = await _command_until_done(plant, "two", before["index"])
        assert after["index"] > before["index"]
        (second,) = await plant.leading()
        assert second != first
        await _leads_to(plant, second)
        again = await plant.command("one", 0)
        assert again is not None
        assert (again["repeated"], again["index"]) == (True, before["index"])
        (third,) = set(NAMES) - {first, second}
        await plant.switchover(third)
        await _leads_to(plant, third)  # a connection that is kept would lead to the old leader, which lives


async def _all_ready(plant: Balanced, names: set[str]) -> None:
    async def ready() -> bool:
        return set(await plant.ready()) == names and len(await plant.leading()) == 1

    await eventually(ready, f"{names} are ready", timeout_s=TAKEOVER_S)


async def _leads_to(plant: Balanced, name: str) -> None:
    """Wait until HAProxy leads to the leader, without a hop over a standby."""

    async def led() -> bool:
        return await plant.served_by() == (name, "leader")

    await eventually(led, f"HAProxy leads to {name}", timeout_s=TAKEOVER_S)


async def _command_until_done(plant: Balanced, id: str, after: int) -> dict[str, Any]:
    """Repeat a command with its id until it is acknowledged."""
    done: dict[str, Any] = {}

    async def acknowledged() -> bool:
        done.update(await plant.command(id, after) or {})
        return bool(done)

    await eventually(acknowledged, "the command is acknowledged", timeout_s=TAKEOVER_S)
    return done
