"""Calls of the session against a healthy store: results, and the error for each kind of refusal."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nodestore.errors import (
    Compacted,
    Invalid,
    LeaseLost,
    NodectlError,
    NoSpace,
    NoSpaceUnknown,
    OutcomeUnknown,
    TooLarge,
    Unavailable,
)
from nodestore.etcd import maintenance
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.rpc import connect_by_grpc
from nodestore.etcd.session import (
    Etcd,
    EtcdSettings,
    WriteResult,
    cmp_create,
    cmp_lease,
    cmp_mod,
    cmp_value,
    op_delete,
    op_get,
    op_put,
    op_range,
)
from nodestore.etcd.watch import list_at
from nodestore.schema.keys import Keys, prefix_end
from tests.support.etcd_cluster import EtcdCluster, free_ports
from tests.support.waiting import eventually


def session(cluster: EtcdCluster) -> Etcd:
    return Etcd(EtcdSettings(endpoints=cluster.endpoints))


async def test_put_get_delete(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A key is absent, there, there as of an older revision, and absent again."""
    async with session(etcd_one) as etcd:
        assert await etcd.get(keys.head) is None
        first = await etcd.put(keys.head, b"one")
        second = await etcd.put(keys.head, b"two")
        found = await etcd.get(keys.head)
        assert found is not None
        assert (found.value, found.create_revision, found.mod_revision, found.version) == (b"two", first, second, 2)
        old = await etcd.get(keys.head, revision=first)
        assert old is not None
        assert old.value == b"one"
        assert await etcd.delete(keys.head) == 1
        assert await etcd.delete(keys.head) == 0
        assert await etcd.get(keys.head) is None


async def test_range_sees_the_prefix_and_nothing_else(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Keys are sorted, a limit sets `more`, and keys outside the prefix are left out."""
    async with session(etcd_one) as etcd:
        names = [f"{keys.state}{name}" for name in ("a", "b/ü", "c")]
        for name in (*names, keys.prefix + "statf", keys.prefix + "state"):
            await etcd.put(name, b"x")
        found = await etcd.range(keys.state)
        assert [kv.key for kv in found.kvs] == names
        assert (found.count, found.has_more) == (3, False)
        part = await etcd.range(keys.state, limit=2, keys_only=True)
        assert (len(part.kvs), part.has_more, part.kvs[0].value) == (2, True, b"")
        assert await etcd.delete(keys.state, prefix=True) == 3


async def test_txn_returns_one_result_for_each_operation(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Reads in a transaction see its writes, at its revision."""
    async with session(etcd_one) as etcd:
        await etcd.put(keys.state + "old", b"x")
        result = await etcd.txn(
            [cmp_create(keys.head, 0)],
            [op_put(keys.head, b"h"), op_get(keys.head), op_delete(keys.state + "old")],
            [op_get(keys.head)],
        )
        assert result.succeeded
        assert result.results[0] == WriteResult(1)
        assert result.results[2] == WriteResult(1)
        head = result.range(1).first
        assert head is not None
        assert head.mod_revision == result.revision == result.range(1).revision
        with pytest.raises(TypeError, match="is not a read"):
            result.range(0)


async def test_each_compare_tells_yes_from_no(etcd_one: EtcdCluster, keys: Keys) -> None:
    """mod, create, value and lease, for a key that is there and for one that is absent."""
    async with session(etcd_one) as etcd:
        lease, _ = await etcd.grant(60)
        revision = await etcd.put(keys.leader, b"me", lease=lease)
        there = [
            cmp_mod(keys.leader, revision),
            cmp_create(keys.leader, revision),
            cmp_value(keys.leader, b"me"),
            cmp_lease(keys.leader, lease),
            cmp_mod(keys.paused, 0),
            cmp_create(keys.paused, 0),
        ]
        assert (await etcd.txn(there)).succeeded
        for wrong in (
            cmp_mod(keys.leader, revision - 1),
            cmp_create(keys.leader, 0),
            cmp_value(keys.leader, b"you"),
            cmp_lease(keys.leader, lease + 1),
            cmp_mod(keys.paused, revision),
        ):
            assert not (await etcd.txn([*there, wrong])).succeeded
        await etcd.revoke(lease)
        assert await etcd.get(keys.leader) is None
        await etcd.revoke(lease)  # what is gone is no error
        assert (await etcd.lease_keys(lease))[0] == -1


async def test_a_put_on_a_lease_that_is_gone_is_lease_lost(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Such a key would never expire."""
    async with session(etcd_one) as etcd:
        lease, ttl_s = await etcd.grant(60)
        assert ttl_s == 60
        await etcd.revoke(lease)
        with pytest.raises(LeaseLost):
            await etcd.put(keys.leader, b"me", lease=lease)


async def test_what_is_compacted_says_so(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A read at a compacted revision, and a second compaction of it, raise Compacted."""
    async with session(etcd_one) as etcd:
        first = await etcd.put(keys.head, b"1")
        last = await etcd.put(keys.head, b"2")
        await maintenance.compact(etcd, last)
        with pytest.raises(Compacted):
            await etcd.get(keys.head, revision=first)
        with pytest.raises(Compacted):
            await maintenance.compact(etcd, last)


async def test_too_large_a_request_is_too_large(etcd_one: EtcdCluster, keys: Keys) -> None:
    """More bytes than the server takes, more than its transport takes, and more operations than a transaction may."""
    async with session(etcd_one) as etcd:
        for size in ((8 << 20) + 100, 12 << 20, 70 << 20):
            with pytest.raises(TooLarge):
                await etcd.put(keys.head, bytes(size))
        with pytest.raises(TooLarge):
            await etcd.txn([], [op_put(f"{keys.state}{i}", b"") for i in range(4097)])
        assert await etcd.get(keys.head) is None


async def test_an_answer_too_large_for_us(etcd_one: EtcdCluster, keys: Keys) -> None:
    """A read raises TooLarge. The outcome of a write is unknown. A listing uses smaller pages and is complete."""
    settings = EtcdSettings(endpoints=etcd_one.endpoints)
    async with Etcd(settings, connect=connect_by_grpc(settings, answer_bytes_max=1 << 20)) as etcd:
        names = [f"{keys.state}{i}" for i in range(9)]
        for name in names:
            await etcd.put(name, bytes(300_000))
        with pytest.raises(TooLarge):
            await etcd.range(keys.state)
        with pytest.raises(OutcomeUnknown):
            await etcd.txn([], [op_put(keys.head, b"x"), op_range(keys.state, prefix_end(keys.state))])
        assert await etcd.get(keys.head) is not None
        listing = await list_at(etcd, keys.state, end=prefix_end(keys.state))
        assert [kv.key for kv in listing.kvs] == names


async def test_a_listing_passes_keys_that_are_no_text(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Binary keys of other programs under the prefix neither hide other keys nor stop the listing."""
    async with session(etcd_one) as etcd:
        raw = keys.state.encode()
        for name in (b"\x80", b"a", b"\xff\x00", b"\xff\xff", b"z"):
            await etcd.call("KV/Put", pb.PutRequest(key=raw + name, value=name))
        listing = await list_at(etcd, keys.state, end=prefix_end(keys.state), page=1)
        assert [kv.value for kv in listing.kvs] == [b"a", b"z", b"\x80", b"\xff\x00", b"\xff\xff"]


async def test_a_listing_is_of_one_revision(etcd_one: EtcdCluster, keys: Keys) -> None:
    """What is written between two pages is not in it."""

    class Meddled(Etcd):
        async def range(self, *args: object, **options: object):  # type: ignore[no-untyped-def]
            found = await super().range(*args, **options)  # type: ignore[arg-type]
            await self.put(keys.state + "5", b"meddled")
            return found

    async with Meddled(EtcdSettings(endpoints=etcd_one.endpoints)) as etcd:
        for i in range(8):
            await etcd.put(f"{keys.state}{i}", b"as it was")
        listing = await list_at(etcd, keys.state, end=prefix_end(keys.state), page=2)
        assert [kv.value for kv in listing.kvs] == [b"as it was"] * 8


async def test_a_refused_connection_is_unavailable(keys: Keys) -> None:
    """A refused connection proves that nothing was sent, so even a plain put raises Unavailable."""
    endpoints = tuple(f"127.0.0.1:{port}" for port in free_ports(3))
    async with Etcd(EtcdSettings(endpoints=endpoints, call_timeout_s=0.3)) as etcd:
        with pytest.raises(Unavailable):
            await etcd.put(keys.head, b"x")
        with pytest.raises(Unavailable):
            await etcd.get(keys.head)
        with pytest.raises(Unavailable):
            await etcd.txn([cmp_mod(keys.head, 0)], [op_put(keys.head, b"x")], repeatable=True)
        with pytest.raises(Unavailable):
            await maintenance.status(etcd, endpoints[0])


async def test_a_put_passes_over_ports_that_refuse(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Two dead endpoints before the living one cost no error, not even to a write that must not be repeated."""
    endpoints = (*(f"127.0.0.1:{port}" for port in free_ports(2)), *etcd_one.endpoints)
    async with Etcd(EtcdSettings(endpoints=endpoints)) as etcd:
        await etcd.put(keys.head, b"x")
        assert etcd.endpoint == etcd_one.endpoints[0]
        found = await etcd.get(keys.head)
        assert found is not None
        assert found.version == 1


async def test_what_is_no_etcd_is_passed_over(etcd_one: EtcdCluster, keys: Keys) -> None:
    """An unknown host name and the port of a web server precede the endpoint that works."""
    async with await asyncio.start_server(_web_server, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        endpoints = ("nobody.invalid:2379", f"127.0.0.1:{port}", *etcd_one.endpoints)
        async with Etcd(EtcdSettings(endpoints=endpoints, call_timeout_s=5.0)) as etcd:
            await etcd.put(keys.head, b"x")
            assert etcd.endpoint == etcd_one.endpoints[0]


async def _web_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    writer.close()
    await writer.wait_closed()


async def test_a_web_proxy_in_the_environment_is_not_for_the_store(
    etcd_one: EtcdCluster, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members are on the private network, whatever the PC uses to reach the web."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with session(etcd_one) as etcd:
        await etcd.put(keys.head, b"x")


async def test_cluster_calls(etcd_three: EtcdCluster) -> None:
    """The members and their statuses are returned; an address outside the cluster is refused."""
    async with session(etcd_three) as etcd:
        members = await maintenance.members(etcd)
        assert {member.name for member in members} == {"m1", "m2", "m3"}
        statuses = [await maintenance.status(etcd, endpoint) for endpoint in etcd_three.endpoints]
        assert {status.member for status in statuses} == {member.id for member in members}
        assert len({status.leader for status in statuses}) == 1
        assert statuses[0].db_bytes > 0
        assert statuses[0].version.startswith("3.")
        with pytest.raises(Invalid):
            await maintenance.status(etcd, "127.0.0.1:1")
        follower = next(status for status in statuses if status.member != status.leader)
        with pytest.raises(NodectlError, match="not leader"):
            await maintenance.move_leader(etcd, etcd_three.endpoints[statuses.index(follower)], follower.member)


async def test_a_full_store_is_no_space() -> None:
    """Under the NOSPACE alarm puts and grants are refused with the reason; reads and pure deletes pass.

    Whether a put that is refused so was the last to get in, its answer does not tell.
    """
    async with (
        EtcdCluster(1, flags=["--quota-backend-bytes=2097152"]) as cluster,
        session(cluster) as etcd,
    ):
        await eventually(lambda: _full(etcd), "the alarm, which comes a little after the bytes")
        with pytest.raises(NoSpace):
            await etcd.grant(60)
        assert await etcd.get("/fill/0") is not None
        assert await etcd.delete("/fill/", prefix=True) > 0


async def _full(etcd: Etcd) -> bool:
    try:
        await etcd.put("/fill/0", bytes(200_000))
    except NoSpaceUnknown:
        return True
    return False


async def test_a_closed_session_says_so(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Whatever is asked after close() fails with a plain error, and closing twice is nothing."""
    etcd = session(etcd_one)
    await etcd.put(keys.head, b"x")
    await etcd.close()
    await etcd.close()
    for call in (etcd.get(keys.head), etcd.open_stream("Watch/Watch"), maintenance.status(etcd, etcd_one.endpoints[0])):
        with pytest.raises(NodectlError, match="closed"):
            await call


@pytest.mark.parametrize(
    "wrong",
    ["", "host", ":2379", "host:", "host:0", "host:65536", "host:http", "host:²"],
)
def test_an_endpoint_must_be_host_and_port(wrong: str) -> None:
    """What is no address is refused before anything connects."""
    with pytest.raises(Invalid):
        EtcdSettings(endpoints=(wrong,))


def test_settings_that_do_not_fit_together() -> None:
    """No endpoints; a certificate without its key or without an authority; a file that is not there."""
    for settings in (
        lambda: EtcdSettings(endpoints=()),
        lambda: EtcdSettings(endpoints=("h:1",), cert=Path("c"), key=Path("k")),
        lambda: EtcdSettings(endpoints=("h:1",), ca=Path("ca"), cert=Path("c")),
        lambda: Etcd(EtcdSettings(endpoints=("h:1",), ca=Path("/nowhere/ca.pem"))),
        lambda: EtcdSettings(endpoints=("https://h:1",)),
        lambda: EtcdSettings(endpoints=("http://h:1",), ca=Path("ca")),
    ):
        with pytest.raises(Invalid):
            settings()
    assert EtcdSettings(endpoints=("http://h:1/", "h:1", "h:2")).endpoints == ("h:1", "h:2")
