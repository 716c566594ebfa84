"""Transactions: the meaning of compares, the order of operations, and atomicity."""

from __future__ import annotations

from typing import Any

import pytest

from nodestore.errors import NodectlError
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import WriteResult, cmp_create, cmp_mod, op_delete, op_get, op_put, op_range
from nodestore.schema.keys import Keys, prefix_end
from tests.conformance.stores import StoreUnderTest

EQUAL, NOT_EQUAL, GREATER, LESS = pb.Compare.EQUAL, pb.Compare.NOT_EQUAL, pb.Compare.GREATER, pb.Compare.LESS
TARGETS = {
    "version": pb.Compare.VERSION,
    "create_revision": pb.Compare.CREATE,
    "mod_revision": pb.Compare.MOD,
    "value": pb.Compare.VALUE,
    "lease": pb.Compare.LEASE,
}


def compare(key: str, target: str, result: Any, value: Any, end: bytes = b"") -> Any:
    return pb.Compare(key=key.encode(), range_end=end, target=TARGETS[target], result=result, **{target: value})


async def test_compares_of_a_key_that_is_there(store: StoreUnderTest, keys: Keys) -> None:
    """Each target and each relation of a compare holds exactly for the correct values."""
    async with store.session() as etcd:
        lease, _ = await etcd.grant(60)
        created = await etcd.put(keys.leader, b"a")
        written = await etcd.put(keys.leader, b"m", lease=lease)
        is_now: dict[str, Any] = {
            "version": 2, "create_revision": created, "mod_revision": written, "value": b"m", "lease": lease,
        }  # fmt: skip
        for target, value in is_now.items():
            lower = b"a" if isinstance(value, bytes) else value - 1
            higher = b"z" if isinstance(value, bytes) else value + 1
            for other, expected in (
                (lower, {EQUAL: False, NOT_EQUAL: True, GREATER: True, LESS: False}),
                (value, {EQUAL: True, NOT_EQUAL: False, GREATER: False, LESS: False}),
                (higher, {EQUAL: False, NOT_EQUAL: True, GREATER: False, LESS: True}),
            ):
                for relation, holds in expected.items():
                    result = await etcd.txn([compare(keys.leader, target, relation, other)])
                    assert result.succeeded == holds, (target, other, relation)
        await etcd.revoke(lease)


async def test_compares_of_an_absent_key(store: StoreUnderTest, keys: Keys) -> None:
    """All numbers of an absent key compare as 0, and no compare of its value holds, not even NOT_EQUAL."""
    async with store.session() as etcd:
        await etcd.put(keys.head, b"x")
        await etcd.delete(keys.head)
        for key in (keys.head, keys.paused):
            assert (await etcd.txn([cmp_mod(key, 0), cmp_create(key, 0)])).succeeded
            assert not (await etcd.txn([cmp_mod(key, 1)])).succeeded
            for target in ("version", "create_revision", "mod_revision", "lease"):
                for relation, value, holds in ((EQUAL, 0, True), (NOT_EQUAL, 0, False), (LESS, 1, True)):
                    assert (await etcd.txn([compare(key, target, relation, value)])).succeeded == holds
            for relation in (EQUAL, NOT_EQUAL, GREATER, LESS):
                assert not (await etcd.txn([compare(key, "value", relation, b"")])).succeeded


async def test_a_compare_of_a_range_holds_for_all_its_keys(store: StoreUnderTest, keys: Keys) -> None:
    """A compare of a range must hold for every key; of an empty range it holds unless it compares the value."""
    end = prefix_end(keys.state)
    async with store.session() as etcd:
        assert (await etcd.txn([compare(keys.state, "version", EQUAL, 0, end)])).succeeded
        assert not (await etcd.txn([compare(keys.state, "value", NOT_EQUAL, b"x", end)])).succeeded
        await etcd.put(keys.state + "a", b"x")
        last = await etcd.put(keys.state + "b", b"y")
        assert (await etcd.txn([compare(keys.state, "mod_revision", LESS, last + 1, end)])).succeeded
        assert not (await etcd.txn([compare(keys.state, "mod_revision", LESS, last, end)])).succeeded


async def test_all_compares_must_hold(store: StoreUnderTest, keys: Keys) -> None:
    """If one compare fails, the other branch runs and its results are returned."""
    async with store.session() as etcd:
        revision = await etcd.put(keys.head, b"x")
        result = await etcd.txn(
            [cmp_mod(keys.head, revision), cmp_create(keys.paused, 1)],
            [op_delete(keys.head)],
            [op_get(keys.head), op_put(keys.paused, b"else"), op_get(keys.paused)],
        )
        assert (result.succeeded, result.revision) == (False, revision + 1)
        assert [kv.value for position in (0, 2) for kv in result.range(position).kvs] == [b"x", b"else"]


async def test_one_revision_and_reads_see_what_went_before(store: StoreUnderTest, keys: Keys) -> None:
    """All writes of a transaction have one revision, and a read sees the writes before it."""
    async with store.session() as etcd:
        before = await etcd.put(keys.state + "old", b"old")
        result = await etcd.txn(
            [],
            [
                op_range(keys.state, prefix_end(keys.state)),
                op_put(keys.state + "a", b"1"),
                op_delete(keys.state + "old"),
                op_put(keys.state + "b", b"2"),
                op_range(keys.state, prefix_end(keys.state)),
                op_delete(keys.paused),
            ],
        )
        assert result.revision == before + 1
        assert result.results[1:4] == (WriteResult(1), WriteResult(1), WriteResult(1))
        assert result.results[5] == WriteResult(0)
        assert [kv.key for kv in result.range(0).kvs] == [keys.state + "old"]
        assert result.range(0).revision == before
        created = [(kv.key, kv.create_revision, kv.mod_revision) for kv in result.range(4).kvs]
        assert created == [(keys.state + name, before + 1, before + 1) for name in "ab"]
        assert result.range(4).revision == before + 1


async def test_no_key_twice(store: StoreUnderTest, keys: Keys) -> None:
    """A transaction that puts a key twice, or puts and deletes it, is refused; deleting twice is allowed."""
    async with store.session() as etcd:
        await etcd.put(keys.head, b"x")
        for ops in (
            [op_put(keys.state + "a", b""), op_put(keys.state + "a", b"")],
            [op_delete(keys.state, end=prefix_end(keys.state)), op_put(keys.state + "a", b"")],
            [op_put(keys.head, b""), op_delete(keys.head)],
        ):
            with pytest.raises(NodectlError, match="duplicate key"):
                await etcd.txn([], ops)
            with pytest.raises(NodectlError, match="duplicate key"):
                await etcd.txn([], [], ops)
        twice = await etcd.txn([], [op_delete(keys.head), op_delete(keys.head)])
        assert twice.results == (WriteResult(1), WriteResult(0))


async def test_transactions_within_transactions(store: StoreUnderTest, keys: Keys) -> None:
    """The compares of a nested transaction see the state before the outer one wrote."""
    inner = pb.TxnRequest(
        compare=[cmp_create(keys.head, 0)],
        success=[op_put(keys.paused, b"it was absent")],
        failure=[op_put(keys.paused, b"it was there")],
    )
    async with store.session() as etcd:
        outer = pb.TxnRequest(success=[op_put(keys.head, b"x"), pb.RequestOp(request_txn=inner)])
        response = await etcd.call("KV/Txn", outer)
        assert response.responses[1].response_txn.succeeded
        result = await etcd.get(keys.paused)
        assert result is not None
        assert (result.value, result.mod_revision) == (b"it was absent", response.header.revision)


async def test_the_branch_that_does_not_run_is_not_asked(store: StoreUnderTest, keys: Keys) -> None:
    """An unknown lease in the branch that does not run is no error."""
    async with store.session() as etcd:
        assert (await etcd.txn([], [op_put(keys.head, b"x")], [op_put(keys.head, b"y", lease=77)])).succeeded
