"""Retention in whole masterds: names of snapshots, fragments, remembered results, and what etcd holds after a day."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import pytest

from masterd.state_machine.batch import CommandOutcome, CommandRequest
from masterd.state_machine.state import State
from masterd.term.leader import Leader, LeaderSettings
from masterd.term.publisher import Publisher
from masterd.term.retention import JournalRetention, RetentionSettings
from masterd.upkeep.store_budget import StoreBudget
from nodestore.errors import Conflict, OutcomeUnknown, ResultForgotten, TooLarge, TooOld
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.schema.keys import prefix_end
from nodestore.schema.models import Manifest
from tests.simulation.runs import play
from tests.simulation.world import Pc, World, no_fault
from tests.support.fakes.link import FINE, Fate

QUICK = RetentionSettings(snapshot_every_commands=3, check_every_s=0.3, keep_ids=False, snapshot_after_s=0.3)
MANIFEST = b"/manifest"


def state_of(world: World) -> State:
    assert world.leader is not None
    return world.leader.parts.replica.state


def leading(world: World) -> Leader:
    pc = world.leader
    assert pc is not None
    assert pc.leader is not None
    return pc.leader


async def started(world: World) -> Leader:
    await world.start("m1", "m2")
    await world.serving()
    await world.command("append", {"path": "lists/0", "item": "a"})
    return leading(world)


async def named(world: World) -> list[str | None]:
    return [manifest.name for manifest in await manifests(world) if manifest.name is not None]


async def manifests(world: World) -> list[Manifest]:
    pc = await world.serving()
    return list((await pc.parts.replica.snapshots.manifests()).values())


def snapshot_keys(world: World) -> list[bytes]:
    prefix = world.keys.snapshots
    found = world.server.store.range(pb.RangeRequest(key=prefix.encode(), range_end=prefix_end(prefix)))
    return [kv.key for kv in found.kvs]


def fragments(world: World) -> set[bytes]:
    keys = snapshot_keys(world)
    return {key.rpartition(b"/")[0] for key in keys} - {
        key.removesuffix(MANIFEST) for key in keys if key.endswith(MANIFEST)
    }


def writes_manifest(request: Any) -> bool:
    return any(op.request_put.key.endswith(MANIFEST) for op in request.success)


# --- names ----------------------------------------------------------------------------------------------------------


def test_of_two_saves_under_one_name_exactly_one_succeeds() -> None:
    """Also when both are under way at once, and after each of them a third one is refused too."""

    async def life(world: World) -> None:
        leader = await started(world)
        saves = [leader.archive.save("before") for _ in range(3)]
        outcomes = await asyncio.gather(*saves, return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict", "Conflict", "Manifest"]
        assert await named(world) == ["before"]
        await leader.archive.delete("before")
        assert await named(world) == []
        await leader.archive.save("before")
        await world.settle()

    play(life)


@pytest.mark.parametrize("lands", [True, False])
def test_a_manifest_without_reply_is_decided_before_its_name_is_used_again(lands: bool) -> None:
    """The first save ends with an unknown outcome. Its transaction arrives later: before the second save, which then
    finds the name taken; or after it, when it must not land any more."""

    async def life(world: World) -> None:
        leader = await started(world)
        late_s = 5.0 if lands else 60.0

        def fate(pc: Pc, method: str, request: Any) -> Fate:
            if method == "KV/Txn" and writes_manifest(request):
                return Fate(late_s=late_s, replied=False)
            return FINE

        world.fate = fate
        with pytest.raises(OutcomeUnknown):
            await leader.archive.save("before")
        world.fate = no_fault
        if lands:
            with pytest.raises(Conflict, match="exists already"):
                await leading(world).archive.save("before")
        else:
            await leading(world).archive.save("before")
        await asyncio.sleep(120.0)
        assert await named(world) == ["before"]
        await leading(world).archive.delete("before")
        await asyncio.sleep(120.0)
        assert await named(world) == []
        await world.settle()

    play(life)


def test_a_deleted_snapshot_stays_deleted() -> None:
    """A late copy of the transaction that wrote its manifest brings nothing back."""

    async def life(world: World) -> None:
        leader = await started(world)
        copies: list[Any] = []

        def fate(pc: Pc, method: str, request: Any) -> Fate:
            if method == "KV/Txn" and writes_manifest(request):
                copies.append(request)
            return FINE

        world.fate = fate
        await leader.archive.save("before")
        world.fate = no_fault
        await leader.archive.delete("before")
        assert copies
        for copy in copies:
            assert not world.server.store.txn(copy).succeeded
        assert await named(world) == []
        await world.settle()

    play(life)


def test_named_snapshots_are_bounded_in_number_and_bytes() -> None:
    """The refusal says what to do; after a deletion there is room again."""
    budget = replace(StoreBudget(), named_max=2, kept_bytes_max=5_000)

    async def life(world: World) -> None:
        leader = await started(world)
        await leader.archive.save("one")
        await leader.archive.save("two")
        with pytest.raises(Conflict, match="2 named snapshots, which is the limit: delete one first"):
            await leader.archive.save("three")
        await leader.archive.delete("one")
        await world.command("put", {"path": "big", "document": {"x": "y" * 4_900}})
        with pytest.raises(TooLarge, match="the limit is 5000"):
            await leader.archive.save("three")
        refused = await world.restore(index=2)
        assert isinstance(refused.refused, TooLarge), refused
        await world.command("delete", {"path": "big"})
        await leader.archive.save("three")
        assert sorted(filter(None, await named(world))) == ["three", "two"]
        await world.settle()

    play(life, settings=LeaderSettings(max_txn_ops=6, budget=budget))


def test_a_named_snapshot_holds_no_ids_and_is_no_reason_to_truncate() -> None:
    """So it stays small however much is remembered. It can be restored, and command ids survive that."""

    async def life(world: World) -> None:
        leader = await started(world)
        await leader.archive.save("before")
        (manifest,) = await manifests(world)
        assert (manifest.has_ids, manifest.documents) == (False, 1)
        await world.command("append", {"path": "lists/0", "item": "b"})
        restored = await world.restore(snapshot="before")
        assert restored.result == {"snapshot": f"{1:016d}-{manifest.nonce}", "documents": 1, "changed": 1}
        repeat = CommandRequest("cmd-1", "append", {"path": "lists/0", "item": "a"}, "client", 0)
        (outcome,) = await leading(world).submit([repeat])
        assert (outcome.index, outcome.repeated) == (1, True)
        pc = await world.serving()
        publisher = Publisher(pc.etcd, world.keys, leading(world).fence)
        publisher.note_published(pc.parts.replica.index, 0)
        retention = JournalRetention(leading(world).fence, pc.parts.replica, publisher, QUICK, world.time.wall_clock)
        await retention.truncate_and_prune(space_is_short=True)
        entries = world.server.store.range(
            pb.RangeRequest(key=world.keys.journal.encode(), range_end=prefix_end(world.keys.journal))
        )
        assert len(entries.kvs) == 3
        await world.settle()

    play(life, settings=LeaderSettings(max_txn_ops=6, retention=replace(QUICK, snapshot_every_commands=1_000)))


def test_a_replica_that_finds_only_a_snapshot_without_ids_refuses_repeats() -> None:
    """An old version may truncate up to such a snapshot. Nothing runs twice then."""

    async def life(world: World) -> None:
        leader = await started(world)
        await leader.archive.save("only")
        await world.witness.delete(world.keys.journal, prefix=True)
        for pc in tuple(world.running.values()):
            pc.crash()
        await world.start("m3")
        await world.serving()
        repeat = CommandRequest("cmd-1", "append", {"path": "lists/0", "item": "a"}, "client", 0)
        (outcome,) = await leading(world).submit([repeat])
        assert isinstance(outcome.error, TooOld)

    play(life, judged=False, settings=LeaderSettings())


# --- fragments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("good", [0, 1, 2])
def test_fragments_are_deleted_during_the_term(good: int) -> None:
    """However many complete snapshots there are. Snapshots that cannot be finished leave no more than one behind."""

    async def life(world: World) -> None:
        await started(world)

        async def more(count: int) -> None:
            for number in range(count):
                await world.command("append", {"path": f"lists/{number % 2}", "item": str(number)})
                await asyncio.sleep(0.2)

        while len(await manifests(world)) < good:
            await more(1)

        def fate(pc: Pc, method: str, request: Any) -> Fate:
            late = method == "KV/Txn" and any(
                op.request_put.key.startswith(world.keys.snapshots.encode())
                and not op.request_put.key.endswith(b"000000")
                for op in request.success
            )
            return Fate(arrives=False) if late else FINE

        world.fate = fate
        await more(20)
        for _ in range(40):
            await asyncio.sleep(5.0)
            assert len(fragments(world)) <= 1
        world.fate = no_fault
        await world.until(lambda: not fragments(world), "the last fragment is deleted")
        await world.settle()

    play(life, settings=LeaderSettings(max_txn_ops=6, retention=QUICK))


def test_a_snapshot_in_progress_is_no_fragment() -> None:
    """A slow save and the checks of retention go on at the same time; the save succeeds."""

    async def life(world: World) -> None:
        leader = await started(world)

        def fate(pc: Pc, method: str, request: Any) -> Fate:
            slow = method == "KV/Txn" and any(
                op.request_put.key.startswith(world.keys.snapshots.encode()) for op in request.success
            )
            return Fate(late_s=0.1) if slow else FINE

        world.fate = fate
        save = asyncio.create_task(leader.archive.save("slow"))
        for number in range(10):
            await world.command("append", {"path": "lists/1", "item": str(number)})
        await save
        assert "slow" in await named(world)
        world.fate = no_fault
        await world.settle()

    play(life, settings=LeaderSettings(max_txn_ops=6, retention=replace(QUICK, check_every_s=0.01)))


def test_a_save_that_is_cancelled_leaves_nothing() -> None:
    """Its caller disconnected while it was written."""

    async def life(world: World) -> None:
        leader = await started(world)
        save = asyncio.create_task(leader.archive.save("cancelled"))

        def fate(pc: Pc, method: str, request: Any) -> Fate:
            if method == "KV/Txn" and writes_manifest(request):
                save.cancel()
                return Fate(arrives=False)
            return FINE

        world.fate = fate
        with contextlib.suppress(asyncio.CancelledError):
            await save
        world.fate = no_fault
        assert save.cancelled()
        assert fragments(world)
        await world.until(lambda: not snapshot_keys(world), "the fragment is deleted")
        await world.settle()

    play(life, settings=LeaderSettings(max_txn_ops=6, retention=replace(QUICK, snapshot_every_commands=1_000)))


# --- remembered results ---------------------------------------------------------------------------------------------

LARGE = {"path": "large", "document": {"x": "y" * 6_000}}


async def submit(world: World, command_id: str, name: str, args: dict[str, Any], after: int = 0) -> CommandOutcome:
    (outcome,) = await leading(world).submit([CommandRequest(command_id, name, args, "client", after)])
    return outcome


def test_a_large_result_is_read_from_the_journal() -> None:
    """By the leader that ran the command, and by the next one. Once truncated, it is forgotten, and not run again."""

    async def life(world: World) -> None:
        await started(world)
        await submit(world, "first", "put", LARGE)
        first = await submit(world, "second", "put", LARGE)
        assert first.result == {"before": LARGE["document"]}
        for _ in range(2):
            again = await submit(world, "second", "put", LARGE)
            assert (again.index, again.result, again.repeated, again.error) == (first.index, first.result, True, None)
            await world.stop_leader()
            await world.serving()
            await world.start("m1", "m2")
        await world.witness.delete(world.keys.entry(first.index))
        again = await submit(world, "second", "put", LARGE)
        assert isinstance(again.error, ResultForgotten)
        assert f"took effect at index {first.index} and was not run again" in str(again.error)
        assert state_of(world).documents["large"].index == first.index

    play(life, judged=False, settings=LeaderSettings(max_txn_ops=6))


def test_a_result_that_cannot_be_read_is_no_refusal() -> None:
    """The command has taken effect: an answer that calls it not done would be wrong."""

    async def life(world: World) -> None:
        await started(world)
        await submit(world, "first", "put", LARGE)
        await submit(world, "second", "put", LARGE)

        def fate(pc: Pc, method: str, request: Any) -> Fate:
            journal = method == "KV/Range" and request.key.startswith(world.keys.journal.encode())
            return Fate(arrives=False) if journal else FINE

        world.fate = fate
        again = await submit(world, "second", "put", LARGE)
        assert isinstance(again.error, OutcomeUnknown), again
        world.fate = no_fault
        assert (await submit(world, "second", "put", LARGE)).result == {"before": LARGE["document"]}

    play(life, judged=False, settings=LeaderSettings(max_txn_ops=6))


def small_budget(ids: int) -> LeaderSettings:
    return LeaderSettings(
        max_txn_ops=6,
        retention=QUICK,
        budget=StoreBudget(
            ids_bytes_max=ids, state_bytes_max=60_000, journal_bytes_max=60_000, kept_bytes_max=60_000, named_max=4
        ),
    )


def test_replicas_agree_on_what_is_remembered() -> None:
    """Each follows the floor in the entries, whatever its own limit, through takeovers and snapshots."""

    async def life(world: World) -> None:
        await started(world)
        for number in range(60):
            if number % 20 == 19:
                await world.stop_leader()
                await world.start("m1", "m2")
                await world.serving()
            await world.command("append", {"path": "lists/0", "item": str(number)})
        await world.settle()
        states = [pc.parts.replica.state for pc in world.running.values()]
        assert len({(state.index, state.floor, tuple(state.ids), state.ids_bytes) for state in states}) == 1
        assert states[0].floor > 40
        assert states[0].ids_bytes <= 1_000 + 200

    play(life, settings=small_budget(1_000))


def test_results_above_the_limit_are_forgotten_without_new_commands() -> None:
    """A term that begins with the results of an old version, which had no limit, commits an entry that raises the
    floor, and replaces both snapshots."""

    async def life(world: World) -> None:
        await started(world)
        for number in range(40):
            await world.command("append", {"path": "lists/0", "item": str(number)})
        assert state_of(world).floor == 0
        world.settings = small_budget(1_000)
        for pc in tuple(world.running.values()):
            pc.crash()
        await world.start("m1", "m2")
        await world.serving()

        def forgotten() -> bool:
            pc = world.leader
            return pc is not None and pc.parts.replica.state.ids_bytes <= 1_200

        await world.until(forgotten, "results are forgotten")
        index = state_of(world).index
        assert state_of(world).floor > 30

        async def replaced() -> bool:
            listed = await manifests(world)
            return len(listed) == 2 and all(manifest.index >= index for manifest in listed)

        deadline = asyncio.get_running_loop().time() + 60.0
        while not await replaced():
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(1.0)
        await asyncio.sleep(60.0)
        assert state_of(world).index == index, "one entry is enough"
        await world.settle()

    play(life, judged=False, settings=small_budget(1 << 20))


# --- a day ----------------------------------------------------------------------------------------------------------

SCALE = 128
"""The day is run with so many times fewer commands, in an etcd whose quota is as many times smaller."""
DAY = LeaderSettings(
    max_txn_ops=64,
    commands_per_batch=9,
    budget=StoreBudget.of_quota((256 << 20) // SCALE),
    retention=RetentionSettings(snapshot_every_commands=5_000 // SCALE, check_every_s=20.0),
)
COMMANDS_PER_HOUR = 9 * 3_600 // SCALE


@pytest.mark.parametrize("hours", [1, pytest.param(24, marks=[pytest.mark.nightly, pytest.mark.timeout(600)])])
def test_a_day_of_nine_nodes_leaves_memory_and_store_bounded(hours: int) -> None:
    """Nine nodes, each given a document of 3 kB once a second. Leaders change every few hours."""

    async def hour(world: World, number: int) -> None:
        for turn in range(COMMANDS_PER_HOUR // 9):
            commands = [
                CommandRequest(f"{number}-{turn}-{node}", "put", wall(node, turn), "client", state_of(world).index)
                for node in range(9)
            ]
            outcomes = await leading(world).submit(commands)
            assert [outcome.error for outcome in outcomes] == [None] * 9
            await asyncio.sleep(9 * SCALE / 9)

    async def life(world: World) -> None:
        await world.start("m1", "m2")
        await world.serving()
        for number in range(hours):
            await hour(world, number)
            if number % 4 == 0:
                await world.stop_leader()
                await world.start("m1", "m2")
                await world.serving()
            assert stored_bytes(world) <= DAY.budget.peak_bytes(9 * 4_200)
            for pc in world.running.values():
                state = pc.parts.replica.state
                assert state.ids_bytes <= DAY.budget.ids_bytes_max + 9 * 4_200
                assert len(state.ids) < 100
            await world.until(lambda: journal_bytes(world) <= DAY.budget.journal_bytes_max * 4 // 3, "truncated")
        oldest = next(iter(state_of(world).ids))
        number, turn, node = map(int, oldest.split("-"))
        again = await submit(world, oldest, "put", wall(node, turn))
        assert (again.repeated, again.error) == (True, None)

    play(life, judged=False, settings=DAY, lease_ttl_s=60)  # keepalives would be most of the work


def wall(node: int, turn: int) -> dict[str, Any]:
    return {"path": f"wall/{node}", "document": {"text": f"{turn}" + "x" * 3_000}}


def journal_bytes(world: World) -> int:
    """As the leader counts it."""
    assert world.leader is not None
    return sum(size for _, size in world.leader.parts.replica.entry_sizes)


def stored_bytes(world: World) -> int:
    prefix = world.keys.prefix
    found = world.server.store.range(pb.RangeRequest(key=prefix.encode(), range_end=prefix_end(prefix)))
    return sum(len(kv.key) + len(kv.value) for kv in found.kvs)
