"""Scenarios with transactions that arrive late or lose their reply.

Each asserts the complete outcome: the results of the callers, the content of the store, and the success of later
commands.
They are plain functions, so that tests can also run them with a rule disabled.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from masterd.election.campaign import Campaign, MasterIdentity
from masterd.election.suspicion import LAN, ElectionTiming
from masterd.replication.cluster_view import ClusterView
from masterd.replication.replica import Replica
from masterd.state_machine.batch import CommandOutcome
from masterd.term.journal import Commit, Journal
from masterd.term.leader import LeaderSettings
from nodestore.cluster.election import (
    LeaderSeen,
    TakeoverLost,
    TakeoverWon,
    ensure_epoch,
    new_leader_record,
    parse_leader,
    resign,
    takeover,
)
from nodestore.errors import LeadershipLost, LeaseLost, OutcomeUnknown
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import Compare, Op, TxnResult, op_delete, op_put
from nodestore.schema.keys import Keys
from nodestore.schema.models import Candidate
from tests.faults.late.transactions import ANSWER_S, Stage, configure, run_leader, stage, take_over
from tests.support.etcd_cluster import EtcdCluster
from tests.support.waiting import eventually

_WHOLE_BYTES = 600
"""If the proxy holds this many bytes, it holds the whole takeover transaction."""


async def error_of(task: asyncio.Task[object]) -> BaseException | None:
    """Wait for the end of a task, for at most 10 s; return its error."""
    done, _ = await asyncio.wait([task], timeout=10.0)
    assert done, "it does not end"
    return task.exception()


def code_of(outcome: CommandOutcome) -> str | None:
    return outcome.error.code if outcome.error else None


# --- commits --------------------------------------------------------------------------------------------------------


async def commit_after_its_leader_was_replaced(cluster: EtcdCluster, keys: Keys) -> None:
    """It has no effect, and its caller gets LeadershipLost: `head` is unmoved, so it can never land."""
    async with stage(cluster, keys, repeats_arrive=False) as s, run_leader(s.late, s.witness, keys) as term:
        assert (await term.add("x1")).index == 1
        s.late.hold_next()
        call = asyncio.create_task(term.add("x2"))
        await s.held()
        await take_over(s.witness, keys, "m2")
        before = await s.head()
        await s.deliver()
        assert code_of(await call) == "leadership_lost"
        assert await s.head() == before
        assert await s.ids() == ["x1"]
        assert isinstance(await term.ended(), LeadershipLost)


async def commit_after_its_successor_committed(cluster: EtcdCluster, keys: Keys) -> None:
    """It has no effect, but its leader cannot know that: OutcomeUnknown. The repeat at the successor runs."""
    async with stage(cluster, keys, repeats_arrive=False) as s, run_leader(s.late, s.witness, keys) as term:
        await term.add("x1")
        s.late.hold_next()
        call = asyncio.create_task(term.add("x2"))
        await s.held()
        async with run_leader(s.witness, s.witness, keys, "m2") as successor:
            assert (await successor.add("y")).result == 2
            await s.deliver()
            assert code_of(await call) == "outcome_unknown"
            again = await successor.add("x2")
            assert (again.result, again.repeated) == (3, False)
        assert await s.ids() == ["x1", "y", "x2"]
        await s.once(2)


async def commit_that_landed_unheard_before_its_leader_was_replaced(cluster: EtcdCluster, keys: Keys) -> None:
    """Its reply is lost. The successor recognises the repeat, and the entry shows the caller that it landed."""
    async with stage(cluster, keys, repeats_arrive=False) as s, run_leader(s.late, s.witness, keys) as term:
        await term.add("x1")
        s.late.lose_next_reply()
        call = asyncio.create_task(term.add("x2"))
        await eventually(lambda: _has(s, 2), "the commit has landed")
        async with run_leader(s.witness, s.witness, keys, "m2") as successor:
            again = await successor.add("x2")
            assert (again.result, again.index, again.repeated) == (2, 2, True)
            assert (await successor.add("y")).result == 3
            s.proxy.forward()
            assert (await call).index == 2
        assert await s.ids() == ["x1", "x2", "y"]


async def commit_whose_reply_is_lost(cluster: EtcdCluster, keys: Keys) -> None:
    """The repeat finds its nonce in `head`: the commit landed once, and the term continues."""
    async with stage(cluster, keys, repeats_arrive=True) as s, run_leader(s.late, s.witness, keys) as term:
        await term.add("x1")
        s.late.lose_next_reply()
        lost = await term.add("x2")
        assert (lost.index, lost.result, lost.error) == (2, 2, None)
        await s.once(2)
        assert (await term.add("x3")).result == 3
        assert await s.ids() == ["x1", "x2", "x3"]


async def commit_whose_copy_is_late(cluster: EtcdCluster, keys: Keys) -> None:
    """The repeated transaction landed first. The late copy changes nothing, not even after further commits."""
    async with stage(cluster, keys, repeats_arrive=True) as s, run_leader(s.late, s.witness, keys) as term:
        await term.add("x1")
        s.late.hold_next()
        assert (await term.add("x2")).index == 2
        assert (await term.add("x3")).index == 3
        before = await s.head()
        await s.deliver()
        assert await s.head() == before
        for index in (1, 2, 3):
            await s.once(index)
        assert (await term.add("x4")).result == 4


async def commit_whose_copy_lands_after_truncation(cluster: EtcdCluster, keys: Keys) -> None:
    """A late copy of a commit does not restore its truncated entry."""
    async with stage(cluster, keys, repeats_arrive=True) as s, run_leader(s.late, s.witness, keys) as term:
        await term.add("x1")
        s.late.hold_next()
        await term.add("x2")
        await term.add("x3")
        cut = await s.witness.txn(
            term.won.fence.compares(keys), [op_delete(keys.journal, end=keys.entry(3).encode())], repeatable=True
        )
        assert cut.succeeded
        await s.deliver()
        assert await s.ids() == ["x3"]
        assert (await term.add("x4")).result == 4


async def commit_given_up_after_an_open_attempt(cluster: EtcdCluster, keys: Keys) -> None:
    """One copy is held, and etcd refuses its repeat. The leader moves `head` by an empty commit.

    So the held copy, which etcd would accept by now, has no effect. The caller gets the definite error, and the term
    continues.
    """
    async with stage(cluster, keys, repeats_arrive=True) as s:
        lease = secrets.randbelow(1 << 60) + 1
        journal, commit = await _refusable(s, lease)
        await s.witness.revoke(lease)  # before the repeat, which is sent soon
        s.late.hold_next()
        task = asyncio.create_task(journal.commit(commit))
        await s.held()
        assert isinstance(await error_of(task), LeaseLost)
        await _grant(s, lease)
        await s.deliver()
        assert await s.view(keys.entry(1)) is None
        assert await journal.commit(Commit.moving_to(1, [op_put(keys.state + "next", b"{}")])) > 0
        assert journal.index == 1


async def _refusable(s: Stage, lease: int) -> tuple[Journal, Commit]:
    """Return a journal, and a commit that etcd refuses if and only if the lease does not exist."""
    await _grant(s, lease)
    won = await take_over(s.witness, s.keys, "m1")
    journal = Journal(s.late, s.keys, won.fence, won.head)
    return journal, Commit.moving_to(1, [op_put(s.keys.entry(1), b"{}"), op_put(s.keys.paused, b"", lease=lease)])


async def _grant(s: Stage, lease: int) -> None:
    await s.witness.call("Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=60, ID=lease))


async def _has(s: Stage, index: int) -> bool:
    return await s.witness.get(s.keys.entry(index)) is not None


# --- takeovers ------------------------------------------------------------------------------------------------------


async def takeover_whose_reply_is_lost(cluster: EtcdCluster, keys: Keys) -> None:
    """The repeated takeover finds its own nonce: it has won, and it has read the current head and journal."""
    async with stage(cluster, keys, repeats_arrive=True) as s:
        async with run_leader(s.witness, s.witness, keys) as before:
            for name in ("x1", "x2", "x3"):
                await before.add(name)
        s.late.lose_next_reply()
        won = await _take_over_late(s, parse_leader(await s.witness.get(keys.leader)), next_index=2)
        assert isinstance(won, TakeoverWon)
        leader = await s.witness.get(keys.leader)
        assert leader is not None
        assert won.fence.term.revision == leader.mod_revision
        assert won.head is not None
        assert won.head.mod_revision == (await s.head()).mod_revision
        assert [kv.key for kv in won.tail.kvs] == [keys.entry(2), keys.entry(3)]
        record = await s.witness.get(keys.term("late"))
        assert record is not None
        assert record.version == 1
        async with run_leader(s.late, s.witness, keys, "late", won=won) as term:
            assert (await term.add("x4")).result == 4


async def takeover_that_lands_after_it_was_won_and_resigned(cluster: EtcdCluster, keys: Keys) -> None:
    """`leader` is absent again, as the late copy expects. Only its compare of `terms/<nonce>` fails."""
    async with stage(cluster, keys, repeats_arrive=True) as s:
        s.late.hold_next()
        won = await _take_over_late(s, LeaderSeen())
        assert isinstance(won, TakeoverWon)
        assert await resign(s.witness, keys, won.fence, "test")
        await s.deliver()
        assert await s.witness.get(keys.leader) is None
        assert (await take_over(s.witness, keys, "m2")).fence.term > won.fence.term


async def takeover_that_lands_after_another(cluster: EtcdCluster, keys: Keys) -> None:
    """Another masterd took over first, so the compare of `leader` in the late copy fails."""
    async with stage(cluster, keys, repeats_arrive=False) as s:
        s.late.hold_next()
        task = asyncio.create_task(_take_over_late(s, LeaderSeen()))
        await s.held()
        other = await take_over(s.witness, keys, "m2")
        assert isinstance(await error_of(task), OutcomeUnknown)
        await s.deliver()
        found = parse_leader(await s.witness.get(keys.leader))
        assert found.revision == other.fence.term.revision
        assert await s.witness.get(keys.term("late")) is None


async def _take_over_late(s: Stage, seen: LeaderSeen, next_index: int = 1) -> TakeoverWon | TakeoverLost:
    lease, _ = await s.witness.grant(60)
    epoch = await ensure_epoch(s.witness, s.keys)
    me = new_leader_record(master="late", host="late", urls=(), nonce="late", cause="first", why="test")
    return await takeover(s.late, s.keys, me=me, lease=lease, seen=seen, epoch=epoch, next_index=next_index)


async def takeover_that_lands_after_its_candidate_gave_up(cluster: EtcdCluster, keys: Keys) -> None:
    """It lands after the candidate gave the attempt up. The campaign finds its nonce in `leader` and leads."""
    one_attempt = replace(LAN, stagger_s=600.0)  # from the second attempt on, another candidate goes first
    async with stage(cluster, keys, repeats_arrive=False) as s, _campaign(s, one_attempt) as campaign:
        lease, _ = await s.witness.grant(60)
        s.late.hold_next()
        task = asyncio.create_task(campaign.win(lease))
        await s.held()
        other = Candidate(id="other", host="other", urls=(), nonce="other")
        await s.witness.put(keys.candidate("other"), other.encode())
        await eventually(lambda: s.late.unknown > 0, "the candidate has given the attempt up")
        await s.deliver()
        won = await asyncio.wait_for(task, 30.0)
        found = parse_leader(await s.witness.get(keys.leader))
        assert found.record is not None
        assert (found.revision, found.lease) == (won.fence.term.revision, lease)
        assert won.fence.nonce == found.record.nonce
        terms = await s.witness.range(keys.terms)
        assert [kv.key for kv in terms.kvs] == [keys.term(won.fence.nonce)], "there was one attempt"


async def takeover_that_lands_on_a_lease_given_up(cluster: EtcdCluster, keys: Keys) -> None:
    """The campaign finds its own nonce in `leader`, but attached to an old lease that will expire.

    It deletes that key and wins again.
    """
    async with stage(cluster, keys, repeats_arrive=False) as s, _campaign(s) as campaign:
        old, _ = await s.witness.grant(60)
        s.late.hold_next()
        task = asyncio.create_task(campaign.win(old))
        await s.proxy.wait_held(up_bytes=_WHOLE_BYTES)
        task.cancel()
        await asyncio.wait([task])
        await s.deliver()
        late = parse_leader(await s.witness.get(keys.leader))
        assert late.lease == old
        new, _ = await s.witness.grant(60)
        won = await asyncio.wait_for(campaign.win(new), 30.0)
        found = parse_leader(await s.witness.get(keys.leader))
        assert (found.lease, found.revision) == (new, won.fence.term.revision)
        assert won.fence.term.revision > late.revision
        await s.witness.revoke(old)
        assert parse_leader(await s.witness.get(keys.leader)) == found


@asynccontextmanager
async def _campaign(s: Stage, timing: ElectionTiming = LAN) -> AsyncIterator[Campaign]:
    """Yield a campaign that watches etcd directly and sends its takeovers through the proxy."""
    cluster_view, replica = ClusterView(s.witness, s.keys), Replica(s.witness, s.keys)
    await replica.catch_up()
    watching = asyncio.create_task(cluster_view.watch())
    try:
        yield Campaign(s.late, s.keys, MasterIdentity("late", "late", (), 0, "late"), cluster_view, replica, timing)
    finally:
        watching.cancel()
        await asyncio.wait([watching])


# --- views, resignations --------------------------------------------------------------------------------------------

SMALL = LeaderSettings(max_txn_ops=4)
"""A transaction has room for one view only, so the views that a command changes do not fit into its commit."""


async def chunk_of_a_deposed_leader(cluster: EtcdCluster, keys: Keys) -> None:
    """A late chunk of a deposed leader changes no view, even before the new leader has written any."""
    async with stage(cluster, keys, repeats_arrive=False) as s:
        await configure(s.witness, keys)
        async with run_leader(s.late, s.witness, keys, settings=SMALL) as term:
            first = (await term.put("nodes/n1", x=1)).index
            await eventually(lambda: _complete(s, first), "the views are up to date")
            before = await s.view(keys.desired_of("n1"))
            hold_the_chunk(s)
            call = asyncio.create_task(term.put("nodes/n1", x=2))
            await s.held()
            won = await take_over(s.witness, keys, "m2")
            await s.deliver()
            assert await s.view(keys.desired_of("n1")) == before
            assert isinstance(await term.ended(), LeadershipLost)
            assert code_of(await call) is None, "the commit itself had landed"
        async with run_leader(s.witness, s.witness, keys, "m2", won=won):
            shown = await s.view(keys.desired_of("n1"))
            assert (shown["term"], shown["spec"]["document"]) == (won.fence.term.revision, {"x": 2})


async def chunk_whose_copy_is_late(cluster: EtcdCluster, keys: Keys) -> None:
    """A late copy of a chunk, in the same term and after later commits, does not restore an older view."""
    async with stage(cluster, keys, repeats_arrive=True) as s:
        await configure(s.witness, keys)
        async with run_leader(s.late, s.witness, keys, settings=SMALL) as term:
            first = (await term.put("nodes/n1", x=1)).index
            await eventually(lambda: _complete(s, first), "the views are up to date")
            hold_the_chunk(s)
            await term.put("nodes/n1", x=2)
            last = (await term.put("nodes/n1", x=3)).index
            await eventually(lambda: _complete(s, last), "the views are up to date")
            await s.deliver()
            assert await _shows(s, 3)


async def _complete(s: Stage, index: int) -> bool:
    applied = await s.view(s.keys.applied)
    return bool(applied["index"] == index and applied["through"] is None)


async def _shows(s: Stage, x: int) -> bool:
    shown = await s.view(s.keys.desired_of("n1"))
    return bool(shown is not None and shown["spec"]["document"] == {"x": x})


def hold_the_chunk(s: Stage) -> None:
    """Let the next commit through and hold the chunk of views after it."""
    passed = s.late.txn

    async def txn(compares: Sequence[Compare], then: Sequence[Op] = (), *args: Any, **kwargs: Any) -> TxnResult:
        result = await passed(compares, then, *args, **kwargs)
        if any(op.request_put.key == s.keys.head.encode() for op in then):
            s.late.txn = passed  # type: ignore[method-assign]
            s.late.hold_next()
        return result

    s.late.txn = txn  # type: ignore[method-assign]


async def resignation_that_lands_after_reelection(cluster: EtcdCluster, keys: Keys) -> None:
    """A late resignation does not delete `leader` of a newer term, even if the same masterd leads again."""
    async with stage(cluster, keys, repeats_arrive=True) as s:
        won = await take_over(s.witness, keys, "m1")
        s.late.call_s = ANSWER_S
        s.late.hold_next()
        assert await resign(s.late, keys, won.fence, "test")
        again = await take_over(s.witness, keys, "m1")
        await s.deliver()
        found = parse_leader(await s.witness.get(keys.leader))
        assert found.revision == again.fence.term.revision
