"""The rules of the claim `alive/<node>`."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from noded.registration.claim import (
    REPLACED_MANY,
    ClaimDecision,
    NodeClaim,
    NodedIdentity,
    decide_claim,
    pause_before_replacing_s,
)
from nodestore.errors import Unavailable
from nodestore.etcd.lease import Lease
from nodestore.etcd.session import KV, Etcd
from nodestore.schema.models import Alive

ME = NodedIdentity("n1", "this-host", "mine")


def claim(host_id: str, nonce: str, lease: int = 7) -> KV:
    return KV("alive/n1", Alive(host_id=host_id, nonce=nonce, host="pc").encode(), 1, 2, 1, lease)


@pytest.mark.parametrize(
    ("found", "held", "verdict"),
    [
        (None, False, ClaimDecision.CLAIM),
        (None, True, ClaimDecision.CLAIM),
        (claim("this-host", "mine"), True, ClaimDecision.OURS),
        (claim("this-host", "mine"), False, ClaimDecision.OURS),  # our first put, whose answer was lost
        (claim("this-host", "mine", lease=6), True, ClaimDecision.CLAIM),  # still on the lease we have lost
        (claim("this-host", "older"), False, ClaimDecision.CLAIM),
        (claim("this-host", "newer"), True, ClaimDecision.SUPERSEDED),
        (claim("other-host", "theirs"), False, ClaimDecision.WAIT),
        (claim("other-host", "theirs"), True, ClaimDecision.SUPERSEDED),
        (claim("other-host", "theirs", lease=0), False, ClaimDecision.CLAIM),
        (claim("other-host", "theirs", lease=0), True, ClaimDecision.SUPERSEDED),
        (KV("alive/n1", b"garbage", 1, 2, 1, 0), False, ClaimDecision.CLAIM),
        (KV("alive/n1", b"garbage", 1, 2, 1, 0), True, ClaimDecision.CLAIM),
    ],
)
def test_who_has_the_node(found: KV | None, held: bool, verdict: ClaimDecision) -> None:
    """A claim of the same host is overwritten, one of another host is waited for.

    Once the claim is ours, any other nonce ends this noded.
    """
    assert decide_claim(found, ME, 7, was_held=held) is verdict


@pytest.mark.parametrize(
    ("theirs", "mine", "verdict"),
    [
        ("boot-1", "boot-1", ClaimDecision.CLAIM),
        ("boot-1", "boot-2", ClaimDecision.WAIT),
        ("", "boot-2", ClaimDecision.CLAIM),  # an earlier release wrote it
        ("boot-1", "", ClaimDecision.CLAIM),  # a system without such an id
    ],
)
def test_two_pcs_with_one_host_id_do_not_replace_each_other(theirs: str, mine: str, verdict: ClaimDecision) -> None:
    """PCs that were cloned from one image differ in their boot: the second waits, as for any other host."""
    alive = Alive(host_id="this-host", nonce="theirs", host="pc", boot=theirs)
    found = KV("alive/n1", alive.encode(), 1, 2, 1, 7)
    me = NodedIdentity("n1", "this-host", "mine", mine)
    assert decide_claim(found, me, 0, was_held=False) is verdict


def test_the_pause_before_a_replacement_grows_and_is_bounded() -> None:
    """A restart replaces at once; nodeds that replace one another all the time become slow."""
    pauses = [pause_before_replacing_s(count) for count in range(12)]
    assert pauses[:REPLACED_MANY] == [0.0] * REPLACED_MANY
    assert pauses[REPLACED_MANY:] == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0]
    assert pause_before_replacing_s(100_000) == 60.0


class OneKey:
    """A fake of etcd that holds the claim."""

    def __init__(self, alive: Alive | None) -> None:
        self.alive = alive
        self.reads = 0
        self.is_away = False

    async def get(self, key: str) -> KV | None:
        self.reads += 1
        if self.is_away:
            raise Unavailable("etcd cannot be reached")
        return None if self.alive is None else KV(key, self.alive.encode(), 1, 2, 1, 7)

    async def txn(self, _compares: Any, then: Any, **_: Any) -> None:
        self.alive = Alive.model_validate_json(then[0].request_put.value)


def node_claim(store: OneKey) -> NodeClaim:
    return NodeClaim(cast(Etcd, store), "alive/n1", ME, 2, lambda: None)


class OldLease:
    """A lease that may have expired."""

    id = 7
    left_s = -1.0


async def test_a_noded_that_was_replaced_while_it_was_frozen_does_not_act() -> None:
    """It reads the claim before it acts, but only if its lease may have expired."""
    store = OneKey(Alive(host_id="this-host", nonce="theirs", host="pc"))
    claim_ = node_claim(store)
    assert await claim_.may_act()
    claim_.was_held = True
    lease = OldLease()
    claim_._lease = cast(Lease, lease)  # private: only a frozen process would have an expired lease here
    assert not await claim_.may_act()
    store.is_away = True
    assert await claim_.may_act()  # an outage stops no node
    lease.left_s, reads = 1.0, store.reads
    assert await claim_.may_act()
    assert store.reads == reads


async def test_replacements_in_a_row_are_counted_shown_and_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim whose holder had just started counts on; one that was held for long, or released, begins anew."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    for before, since, count, pauses in [(0, 0.0, 1, []), (3, 0.0, 4, [2.0]), (3, 3_600.0, 0, [2.0])]:
        slept.clear()
        held = Alive(host_id="this-host", nonce="theirs", host="pc", replaced=before, since=time.time() - since)
        store = OneKey(held)
        claim_ = node_claim(store)
        assert await claim_._try_claim(cast(Lease, OldLease()))  # private: one attempt, without the watch around it
        assert store.alive is not None
        assert (store.alive.nonce, store.alive.replaced, slept) == ("mine", count, pauses)
        assert (claim_.warning is not None) == (count >= REPLACED_MANY)
