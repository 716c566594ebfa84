"""Keys, ranges, revisions and errors, on etcd and on the fake."""

from __future__ import annotations

import pytest

from nodestore.errors import Compacted, LeaseLost, NodectlError, TooLarge
from nodestore.etcd import maintenance
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import Etcd, cmp_mod, op_put
from nodestore.etcd.watch import list_at
from nodestore.schema.keys import Keys, prefix_end
from tests.conformance.stores import REQUEST_BYTES_MAX, TXN_OPS_MAX, StoreUnderTest


async def test_a_key_through_its_life(store: StoreUnderTest, keys: Keys) -> None:
    """A key that is created, changed, deleted and created again has the correct versions, also at older revisions."""
    async with store.session() as etcd:
        assert await etcd.get(keys.head) is None
        first = await etcd.put(keys.head, b"one")
        second = await etcd.put(keys.head, b"two")
        assert second == first + 1
        assert await shape(etcd, keys.head) == (b"two", first, second, 2, 0)
        assert await shape(etcd, keys.head, first) == (b"one", first, first, 1, 0)
        assert await etcd.delete(keys.head) == 1
        assert await etcd.get(keys.head) is None
        assert await shape(etcd, keys.head, second) == (b"two", first, second, 2, 0)
        third = await etcd.put(keys.head, b"three")
        assert third == second + 2
        assert await shape(etcd, keys.head) == (b"three", third, third, 1, 0)
        assert await etcd.get(keys.head, revision=third - 1) is None


async def shape(etcd: Etcd, key: str, revision: int = 0) -> tuple[bytes, int, int, int, int]:
    """All fields of a key that exists."""
    result = await etcd.get(key, revision=revision)
    assert result is not None
    return result.value, result.create_revision, result.mod_revision, result.version, result.lease


async def test_what_changes_nothing_is_no_revision(store: StoreUnderTest, keys: Keys) -> None:
    """Only writes create a revision, also a put of the same value; reads and deletions of absent keys do not."""
    async with store.session() as etcd:
        before = await etcd.put(keys.head, b"x")
        assert await etcd.delete(keys.paused) == 0
        assert await etcd.delete(keys.state, prefix=True) == 0
        assert (await etcd.txn([])).revision == before
        assert (await etcd.txn([cmp_mod(keys.paused, 1)], [op_put(keys.paused, b"")])).revision == before
        assert await etcd.put(keys.head, b"x") == before + 1


async def test_a_range_is_the_prefix_and_nothing_else(store: StoreUnderTest, keys: Keys) -> None:
    """A range returns the keys under the prefix in byte order, and a deletion returns the number of its keys."""
    async with store.session() as etcd:
        names = [keys.state + name for name in ("a", "a/b", "b/ü", "c")]
        for name in (*reversed(names), keys.prefix + "statf", keys.prefix + "state", keys.prefix + "stat"):
            await etcd.put(name, name.encode())
        result = await etcd.range(keys.state)
        assert [kv.key for kv in result.kvs] == names
        assert [kv.value for kv in result.kvs] == [name.encode() for name in names]
        assert (result.count, result.has_more) == (4, False)
        bounded = await etcd.range(keys.state + "a", end=f"{keys.state}b/ü".encode())
        assert [kv.key for kv in bounded.kvs] == names[:2]
        assert await etcd.delete(keys.state, prefix=True) == 4
        assert [kv.key for kv in (await etcd.range(keys.prefix + "sta")).kvs] == [
            keys.prefix + name for name in ("stat", "state", "statf")
        ]


async def test_pages(store: StoreUnderTest, keys: Keys) -> None:
    """A limited range returns the first keys, the total count, whether there are more, and the next start."""
    async with store.session() as etcd:
        names = [f"{keys.state}{number}" for number in range(5)]
        for name in names:
            await etcd.put(name, b"x")
        first_page = await etcd.range(keys.state, limit=2, keys_only=True)
        assert [(kv.key, kv.value) for kv in first_page.kvs] == [(name, b"") for name in names[:2]]
        assert (first_page.has_more, first_page.count) == (True, 5)
        assert first_page.next_start == names[1].encode() + b"\0"
        rest = await etcd.range(first_page.next_start, end=prefix_end(keys.state), limit=3)
        assert [kv.key for kv in rest.kvs] == names[2:]
        assert (rest.has_more, rest.count) == (False, 3)


async def test_a_listing_in_pages_is_of_one_revision(store: StoreUnderTest, keys: Keys) -> None:
    """A listing in pages does not include changes made between two pages."""
    async with store.session() as etcd:
        for number in range(5):
            await etcd.put(f"{keys.state}{number}", b"old")
        revision = (await etcd.range(keys.state, limit=1)).revision
        for number in range(5, 7):
            await etcd.put(f"{keys.state}{number}", b"new")
        await etcd.delete(f"{keys.state}1")
        await etcd.put(f"{keys.state}2", b"new")
        listing = await list_at(etcd, keys.state, end=prefix_end(keys.state), revision=revision, page=2)
        assert [kv.value for kv in listing.kvs] == [b"old"] * 5
        assert listing.revision == revision


async def test_keys_that_are_no_text(store: StoreUnderTest, keys: Keys) -> None:
    """Keys that are not UTF-8 are listed in byte order, each exactly once."""
    async with store.session() as etcd:
        raw = keys.state.encode()
        for name in (b"\xff\xff", b"\x80", b"a", b"\xff\x00", b"z"):
            await etcd.call("KV/Put", pb.PutRequest(key=raw + name, value=name))
        listing = await list_at(etcd, keys.state, end=prefix_end(keys.state), page=1)
        assert [kv.value for kv in listing.kvs] == [b"a", b"z", b"\x80", b"\xff\x00", b"\xff\xff"]


async def test_from_a_key_on(store: StoreUnderTest, keys: Keys) -> None:
    """A range whose end is a zero byte is unbounded."""
    async with store.session() as etcd:
        await etcd.put(keys.head, b"x")
        result = await etcd.range(keys.head, end=b"\0", limit=1)
        assert result.first is not None
        assert result.first.key == keys.head
        everything = await etcd.range("\0", end=b"\0", keys_only=True)
        assert keys.head in [kv.key for kv in everything.kvs]


async def test_compaction(store: StoreUnderTest, keys: Keys) -> None:
    """Revisions before the compacted one are unreadable; compacting again or in the future is an error."""
    async with store.session() as etcd:
        first = await etcd.put(keys.head, b"1")
        await etcd.delete(keys.head)
        await etcd.put(keys.paused, b"2")
        last = await etcd.put(keys.head, b"3")
        await maintenance.compact(etcd, last - 1)
        for revision in (first, last - 2):
            with pytest.raises(Compacted):
                await etcd.get(keys.head, revision=revision)
        assert await etcd.get(keys.head, revision=last - 1) is None
        result = await etcd.get(keys.paused, revision=last - 1)
        assert result is not None
        assert result.value == b"2"
        for revision in (last - 1, first):
            with pytest.raises(Compacted):
                await maintenance.compact(etcd, revision)
        with pytest.raises(NodectlError, match="future revision"):
            await maintenance.compact(etcd, last + 1000)
        with pytest.raises(NodectlError, match="future revision"):
            await etcd.get(keys.head, revision=last + 1000)


async def test_too_much_is_too_large(store: StoreUnderTest, keys: Keys) -> None:
    """Requests above the limits of bytes or operations raise TooLarge and change nothing."""
    async with store.session() as etcd:
        for size in (REQUEST_BYTES_MAX + 100, REQUEST_BYTES_MAX + (4 << 20)):
            with pytest.raises(TooLarge):
                await etcd.put(keys.head, bytes(size))
        puts = [op_put(f"{keys.state}{number}", b"") for number in range(TXN_OPS_MAX + 1)]
        with pytest.raises(TooLarge):
            await etcd.txn([], puts)
        with pytest.raises(TooLarge):
            await etcd.txn([], [], puts)
        with pytest.raises(TooLarge):
            await etcd.txn([cmp_mod(keys.head, 0)] * (TXN_OPS_MAX + 1), [op_put(keys.head, b"")])
        assert (await etcd.txn([], puts[1:])).succeeded
        assert await etcd.get(keys.head) is None


async def test_a_put_on_a_lease_that_is_gone_is_lease_lost(store: StoreUnderTest, keys: Keys) -> None:
    """A put on a revoked lease raises LeaseLost, and a transaction with one has no effect."""
    async with store.session() as etcd:
        lease, _ = await etcd.grant(60)
        await etcd.revoke(lease)
        with pytest.raises(LeaseLost):
            await etcd.put(keys.leader, b"me", lease=lease)
        with pytest.raises(LeaseLost):
            await etcd.txn([], [op_put(keys.head, b"x"), op_put(keys.leader, b"me", lease=lease)])
        assert (await etcd.range(keys.prefix)).kvs == ()


async def test_a_key_must_have_a_name(store: StoreUnderTest) -> None:
    """Requests without a key are refused with etcd's error text."""
    async with store.session() as etcd:
        for method, request in (
            ("KV/Put", pb.PutRequest(value=b"x")),
            ("KV/Range", pb.RangeRequest()),
            ("KV/DeleteRange", pb.DeleteRangeRequest()),
            ("KV/Txn", pb.TxnRequest(compare=[pb.Compare()])),
            ("KV/Txn", pb.TxnRequest(failure=[pb.RequestOp(request_put=pb.PutRequest())])),
        ):
            with pytest.raises(NodectlError, match="key is not provided"):
                await etcd.call(method, request)
