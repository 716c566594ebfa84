"""Passing requests on while leadership changes hands."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, cast

from aiohttp import web

from masterd.board import Board
from masterd.campaign import Me
from masterd.master import Master, MasterSettings
from masterd.to_leader import ToLeader
from nodestore.election import LeaderSeen
from nodestore.etcd import Etcd, EtcdSettings
from nodestore.keys import Keys
from nodestore.models import LeaderRecord
from tests.toy_app import ToyApp


class _Forwarder:
    """The first leader it asks has just been deposed; the next one answers."""

    def __init__(self, board: Board) -> None:
        self.board, self.asked = board, 0

    async def forward(self, *_: Any) -> web.StreamResponse:
        self.asked += 1
        if self.asked > 1:
            return web.Response(body=b"{}")
        asyncio.get_running_loop().call_soon(_leads, self.board, "m3", 8)
        return web.Response(body=b'{"code":"leadership_lost"}', status=503)


class _Request:
    """A command without an id: not to be done twice."""

    method, path = "POST", "/v1/commands"
    headers: ClassVar[dict[str, str]] = {}

    async def read(self) -> bytes:
        return b'{"name":"add"}'


def _leads(board: Board, name: str, revision: int) -> None:
    record = LeaderRecord(id=name, host=name, urls=(f"http://{name}:1",), nonce=name, since=0.0)
    board.leader = LeaderSeen(revision, record, 5)
    board.tell()


async def test_what_a_deposed_leader_has_not_done_goes_to_the_next_one_whatever_it_is() -> None:
    """It says itself that nothing of it has happened: to ask the next one does it once."""
    async with Etcd(EtcdSettings(("127.0.0.1:1",))) as etcd:
        master = Master(etcd, Keys("c"), Me("m1", "m1", (), 0, "n"), ToyApp(), MasterSettings())
        _leads(master.board, "m2", 7)
        forwarder = _Forwarder(master.board)
        answer = await ToLeader(master, cast(Any, forwarder)).find(cast(Any, _Request()))
        assert isinstance(answer, web.Response)
        assert (answer.status, forwarder.asked) == (200, 2)
