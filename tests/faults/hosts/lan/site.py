"""All PCs of a run: their start, configuration, and leaders."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from nodectl.etcd_binary.find import find_etcd
from nodestore.cluster.configuration import Configuration
from nodestore.cluster.election import LeaderSeen, parse_leader
from nodestore.errors import Conflict, NodectlError
from nodestore.etcd import maintenance
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.schema.keys import Keys
from nodestore.support.jsonio import dumps
from tests.faults.hosts.lan.capture import Capture
from tests.faults.hosts.lan.clocks import WrongClocks
from tests.faults.hosts.lan.disks import Fsyncs, Slowable, fsyncs
from tests.faults.hosts.lan.net import Lan
from tests.faults.hosts.lan.pc import CLUSTER, METRICS, Pc, Site
from tests.support.waiting import eventually

_UP_S = 60.0
_ASK_S = 2.0


class Hosts:
    """`size` PCs, the first `members` of them with an etcd member. `async with` starts them and waits until they work.

    disks: adjustable disks by host. clocks: adjustable clocks. masterd: the module to run as masterd, and arguments.
    """

    def __init__(
        self, directory: Path, *, size: int = 5, members: int = 3, disks: Mapping[str, Slowable] | None = None,
        masterd: Sequence[str] = ("masterd",), clocks: WrongClocks | None = None,
    ) -> None:  # fmt: skip
        names = [f"h{number}" for number in range(1, size + 1)]
        self.lan = Lan(names)
        self.capture = Capture()
        self.clocks = clocks
        self.disks = disks or {}
        self.site = Site(directory, self.lan, find_etcd().server, tuple(names[:members]), masterd=masterd)
        wrapped = {name: {} if clocks is None else clocks.wrapped(name) for name in names}
        self.pcs = {name: Pc(name, self.site, wrapped=wrapped[name]) for name in names}
        self.keys = Keys(CLUSTER)
        self.etcd = Etcd(EtcdSettings(endpoints=tuple(self.site.endpoints())))
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ASK_S))

    async def __aenter__(self) -> Self:
        for pc in self.pcs.values():
            pc.power_on()
        await eventually(self._configured, "the store is configured", timeout_s=_UP_S)
        await self.ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pc in self.pcs.values():
            pc.power_off()
        await self._http.close()
        await self.etcd.close()
        self.capture.close()

    async def _configured(self) -> bool:
        inventory = {
            "masters": {name: {"address": pc.address} for name, pc in self.pcs.items()},
            "nodes": {name: {"address": pc.address} for name, pc in self.pcs.items()},
            "defaults": {"driver": {"name": "file", "settings": {"path": "shown.json"}}},
        }
        try:
            await Configuration(self.etcd, self.keys).apply(inventory, source="", expect_version=0, actor="faults")
        except Conflict:
            return True
        except NodectlError:
            return False
        return True

    # --- who leads what ---

    async def leader(self) -> LeaderSeen:
        return parse_leader(await self.etcd.get(self.keys.leader))

    async def leading(self) -> str | None:
        """Return the host of the leader, once it serves; None while there is none."""
        with contextlib.suppress(NodectlError, aiohttp.ClientError, TimeoutError, KeyError):
            seen = await self.leader()
            if seen.record is not None and (await self.ask(seen.record.id, "/v1/health"))["role"] == "leader":
                return seen.record.id
        return None

    async def etcd_leading(self) -> str | None:
        """Return the host of etcd's leader according to a majority of the members; None without one."""
        votes: list[int] = []
        own: dict[int, str] = {}
        for name in self.site.members:
            with contextlib.suppress(NodectlError):
                status = await maintenance.status(self.etcd, self._member(name), timeout_s=0.5)
                votes.append(status.leader)
                own[status.member] = name
        for vote in votes:
            if vote in own and 2 * votes.count(vote) > len(self.site.members):
                return own[vote]
        return None

    def _member(self, name: str) -> str:
        return f"{self.pcs[name].address}:2379"

    async def fsyncs(self, name: str) -> Fsyncs:
        """What the member on that host has measured of its disk."""
        async with self._http.get(f"http://{self.pcs[name].address}:{METRICS}/metrics") as answer:
            return fsyncs(await answer.text())

    async def ask(self, name: str, path: str, body: Any = None) -> Any:
        """One request to one masterd."""
        url = self.pcs[name].url + path
        method = "GET" if body is None else "POST"
        async with self._http.request(method, url, data=None if body is None else dumps(body)) as answer:
            return await answer.json()

    # --- preparations for faults ---

    async def ready(self) -> None:
        """Wait until every powered PC works: members healthy, masters candidates, nodes claimed."""
        await eventually(self._ready, "all PCs work", timeout_s=_UP_S)

    async def _ready(self) -> bool:
        with contextlib.suppress(NodectlError):
            on = {name for name, pc in self.pcs.items() if pc.powered}
            for name in on & set(self.site.members):
                await maintenance.status(self.etcd, self._member(name), timeout_s=0.5)
            for prefix in (self.keys.candidates, self.keys.alive):
                there = {kv.key.removeprefix(prefix) for kv in (await self.etcd.range(prefix)).kvs}
                if not on <= there:
                    return False
            return await self.leading() in on and await self.etcd_leading() is not None
        return False

    async def lead(self, name: str) -> None:
        """Make the master on that host the leader."""

        async def done() -> bool:
            leading = await self.leading()
            if leading is not None and leading != name:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    await self.ask(leading, "/v1/leader/switchover", {"to": name, "actor": "faults"})
            return leading == name

        await eventually(done, f"{name} leads", timeout_s=_UP_S)

    async def lead_etcd(self, name: str) -> None:
        """Make the etcd member on that host etcd's leader."""

        async def done() -> bool:
            leading = await self.etcd_leading()
            if leading is not None and leading != name:
                with contextlib.suppress(NodectlError):
                    target = (await maintenance.status(self.etcd, self._member(name))).member
                    await maintenance.move_leader(self.etcd, self._member(leading), target)
            return leading == name

        await eventually(done, f"etcd's leader is on {name}", timeout_s=_UP_S)


def clocks() -> float:
    """Return the difference of the wall clock and the monotonic clock, in seconds."""
    return time.time() - time.monotonic()


async def pause(seconds: float) -> None:
    """Let time pass, as part of a schedule of faults."""
    await asyncio.sleep(seconds)
