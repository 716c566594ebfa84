"""A suspicion that was raised is taken back by proofs of the present term, and by nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from masterd.election.leader_watch import LeaderWatch
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.schema.models import Answer, Challenge, Entry, decode
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.etcd import SETTINGS, FakeEtcd
from tests.support.fakes.leader_watch import running, watch

KEYS = Keys("c")
TERM = 7
_LONG_S = 5.0  # silence after which every leader is suspected


class Listeners:
    """Replaces the part of a masterd to which a watch subscribes: `send` calls the subscriber."""

    def __init__(self) -> None:
        self.items: dict[str, Any] = {}
        self._callbacks: list[Callable[[Any], None]] = []

    def subscribe(self, callback: Callable[[Any], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: None

    def send(self, item: Any) -> None:
        for callback in self._callbacks:
            callback(item)


class Standby:
    """The watch of m3 over the leader m1 of term 7, which is silent. m3's challenges reach the store."""

    def __init__(self, etcd: Etcd, server: FakeEtcd) -> None:
        self.replica, self.answers, self._server = Listeners(), Listeners(), server
        view = SimpleNamespace(challenges=SimpleNamespace(items={}), answers=self.answers)
        self.watch: LeaderWatch = watch(etcd=etcd, cluster_view=view, replica=self.replica)

    @property
    def challenge(self) -> Challenge:
        """The challenge that is in the store."""
        key = KEYS.challenge("m3")
        return decode(Challenge, self._server.store.range(pb.RangeRequest(key=key.encode())).kvs[0].value, key)

    async def receive_entry(self, term: int) -> None:
        self.replica.send(Entry.model_construct(v=1, epoch=1, term=term, nonce="n", commands=()))
        await asyncio.sleep(0)

    async def receive_answer(self, term: int, nonce: str) -> None:
        self.answers.items["m3"] = Answer(term=term, nonce=nonce)
        self.answers.send("m3")
        await asyncio.sleep(0)


def suspecting(then: Callable[[Standby], Coroutine[Any, Any, None]]) -> None:
    """Run `then` when the standby suspects the leader."""

    async def life() -> None:
        server = FakeEtcd()
        async with Etcd(SETTINGS, connect=server.connect) as etcd:
            standby = Standby(etcd, server)
            async with running(standby.watch):
                await asyncio.sleep(_LONG_S)
                assert standby.watch.takeover_reason is not None
                await then(standby)

    with VirtualTime() as time:
        time.run(life())


@pytest.mark.parametrize(("term", "suspected"), [(TERM, False), (TERM - 1, True)])
def test_an_entry_of_the_term_ends_the_suspicion(term: int, suspected: bool) -> None:
    """It proves that this leader can still commit. An entry of an earlier term proves nothing."""

    async def then(standby: Standby) -> None:
        await standby.receive_entry(term)
        assert (standby.watch.takeover_reason is not None) is suspected

    suspecting(then)


@pytest.mark.parametrize(
    ("term", "ours", "suspected"), [(TERM, True, False), (TERM, False, True), (TERM - 1, True, True)]
)
def test_an_answer_to_the_present_challenge_ends_the_suspicion(term: int, ours: bool, suspected: bool) -> None:
    """An answer to another challenge, or of another term, may be old."""

    async def then(standby: Standby) -> None:
        await standby.receive_answer(term, standby.challenge.nonce if ours else "another")
        assert (standby.watch.takeover_reason is not None) is suspected

    suspecting(then)


def test_a_takeover_on_suspicion_compares_the_answer() -> None:
    """So it fails if the leader has answered, even if the standby does not know that yet."""

    async def then(standby: Standby) -> None:
        reason = standby.watch.takeover_reason
        assert reason is not None
        assert [(item.key, item.mod_revision) for item in reason.compares] == [(KEYS.answer("m3").encode(), 0)]

    suspecting(then)
