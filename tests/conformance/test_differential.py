"""Any sequence of requests gets the same responses from etcd and from the fake."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.rpc import Connection, GrpcConnection, RpcFailed
from tests.conformance.stores import TTL_MIN_S, TXN_OPS_MAX
from tests.support.etcd_cluster import EtcdCluster
from tests.support.fakes.etcd import MEMBERS, FakeEtcd
from tests.support.profiles import cases

_CALL_S = 5.0
_numbers = itertools.count(1)

# In a generated program keys have no prefix, revisions are relative to its first one, and leases are numbered from 1.
# `Place.placed` translates its requests.
NAMES = st.sampled_from([b"a", b"b", b"b\x00", b"c", b"\xff"])
VALUES = st.sampled_from([b"", b"1", b"2"])
LEASES = st.sampled_from([0, 0, 0, 1, 2])
REVISIONS = st.integers(0, 12)
ENDS = st.sampled_from([b"", b"", b"b", b"c", b"\xff\xff"])

PUTS = st.builds(pb.PutRequest, key=NAMES, value=VALUES, lease=LEASES)
DELETES = st.builds(pb.DeleteRangeRequest, key=NAMES, range_end=ENDS)
RANGES = st.builds(
    pb.RangeRequest, key=NAMES, range_end=ENDS, limit=st.integers(0, 3), keys_only=st.booleans(),
    sort_order=st.sampled_from([0, 0, 0, 1, 2]), sort_target=st.sampled_from([0, 0, 1, 2, 3, 4]),
    count_only=st.sampled_from([False, False, False, True]), revision=st.just(0) | st.just(0) | REVISIONS,
)  # fmt: skip
RELATIONS = st.sampled_from([pb.Compare.EQUAL, pb.Compare.NOT_EQUAL, pb.Compare.GREATER, pb.Compare.LESS])
COMPARES = st.one_of(
    st.builds(
        pb.Compare, key=NAMES, range_end=ENDS, result=RELATIONS, target=st.just(pb.Compare.MOD), mod_revision=REVISIONS
    ),
    st.builds(
        pb.Compare, key=NAMES, range_end=ENDS, result=RELATIONS, target=st.just(pb.Compare.CREATE),
        create_revision=REVISIONS,
    ),
    st.builds(
        pb.Compare, key=NAMES, range_end=ENDS, result=RELATIONS, target=st.just(pb.Compare.VERSION),
        version=st.integers(0, 3),
    ),
    st.builds(pb.Compare, key=NAMES, range_end=ENDS, result=RELATIONS, target=st.just(pb.Compare.VALUE), value=VALUES),
    st.builds(pb.Compare, key=NAMES, range_end=ENDS, result=RELATIONS, target=st.just(pb.Compare.LEASE), lease=LEASES),
)  # fmt: skip
SIMPLE_OPS = st.one_of(
    st.builds(pb.RequestOp, request_put=PUTS),
    st.builds(pb.RequestOp, request_delete_range=DELETES),
    st.builds(pb.RequestOp, request_range=RANGES),
)
INNER = st.builds(
    pb.TxnRequest, compare=st.lists(COMPARES, max_size=1), success=st.lists(SIMPLE_OPS, max_size=1),
    failure=st.lists(SIMPLE_OPS, max_size=1),
)  # fmt: skip
OPS = st.lists(SIMPLE_OPS, max_size=4) | st.builds(lambda inner: [pb.RequestOp(request_txn=inner)], INNER)
TXNS = st.builds(pb.TxnRequest, compare=st.lists(COMPARES, max_size=2), success=OPS, failure=OPS)
STEPS = st.one_of(
    st.tuples(st.just("KV/Put"), PUTS),
    st.tuples(st.just("KV/DeleteRange"), DELETES),
    st.tuples(st.just("KV/Range"), RANGES),
    st.tuples(st.just("KV/Txn"), TXNS),
    st.tuples(st.just("KV/Txn"), TXNS),
    st.tuples(st.just("KV/Compact"), st.builds(pb.CompactionRequest, revision=st.integers(1, 12))),
    st.tuples(st.just("Lease/LeaseGrant"), st.builds(pb.LeaseGrantRequest, ID=st.integers(1, 2), TTL=st.just(60))),
    st.tuples(st.just("Lease/LeaseRevoke"), st.builds(pb.LeaseRevokeRequest, ID=st.integers(1, 2))),
    st.tuples(
        st.just("Lease/LeaseTimeToLive"),
        st.builds(pb.LeaseTimeToLiveRequest, ID=st.integers(1, 2), keys=st.booleans()),
    ),
)


class Place:
    """Prefix, first revision and lease ids of one program, in a store that earlier programs have used."""

    def __init__(self, number: int, revision: int) -> None:
        self.prefix, self.revision, self._lease = f"/program/{number}/".encode(), revision, number * 10

    def lease(self, number: int) -> int:
        return number and self._lease + number

    def placed(self, message: Any) -> Any:
        """A copy of the request with keys, revisions and leases translated, in nested messages too."""
        copied = type(message)()
        copied.CopyFrom(message)
        self._move(copied)
        return copied

    def _move(self, message: Any) -> None:
        for field, value in message.ListFields():
            if field.name in ("key", "range_end"):
                setattr(message, field.name, self.prefix + value)
            elif field.name in ("revision", "mod_revision", "create_revision"):
                setattr(message, field.name, self.revision + value - 1)
            elif field.name in ("lease", "ID"):
                setattr(message, field.name, self.lease(value))
            elif field.message_type is not None:
                for item in value if isinstance(value, list) or hasattr(value, "append") else [value]:
                    self._move(item)


async def _answer(member: Connection, method: str, request: Message) -> str:
    """The response or the error, without the fields that name the member and the raft term."""
    try:
        return _text(await member.call(method, request, _CALL_S, ()))
    except RpcFailed as failed:
        return f"{failed.code}: {failed.details}"


def _text(message: Any) -> str:
    _strip(message)
    return str(message)


def _strip(message: Any) -> None:
    if message.DESCRIPTOR.name == "LeaseTimeToLiveResponse" and message.TTL > 0:
        message.TTL = message.grantedTTL
    for field, value in message.ListFields():
        if field.name == "header":
            revision = value.revision
            value.Clear()
            if message.DESCRIPTOR.name not in ("PutResponse", "DeleteRangeResponse"):
                value.revision = revision
        elif field.message_type is not None:
            for item in value if hasattr(value, "append") else [value]:
                _strip(item)


async def _events(member: Connection, place: Place, start: int, end: int) -> list[str]:
    """The events of a watch of the program's keys from `start` to `end`, and the reason if the watch is cancelled."""
    stream = member.open("Watch/Watch", ())
    create = pb.WatchCreateRequest(key=place.prefix, range_end=place.prefix[:-1] + b"0", start_revision=start)
    events: list[str] = []
    try:
        await stream.send(pb.WatchRequest(create_request=create), _CALL_S)
        while True:
            reply = await stream.receive(_CALL_S)
            assert reply is not None
            events += [str(event) for event in reply.events]
            if reply.canceled:
                return [*events, f"{reply.compact_revision} {reply.cancel_reason}"]
            if reply.events and reply.events[-1].kv.mod_revision >= end:
                return events
    finally:
        await stream.close()


async def _check_same_responses(address: str, steps: list[tuple[str, Any]]) -> None:
    server = FakeEtcd(max_txn_ops=TXN_OPS_MAX, ttl_min_s=TTL_MIN_S)
    real, fake = GrpcConnection(address, None), server.connect(MEMBERS[0])
    try:
        first = await real.call("KV/Put", pb.PutRequest(key=b"/program"), _CALL_S, ())
        place = Place(next(_numbers), first.header.revision)
        server.store.revision = place.revision - 1
        await fake.call("KV/Put", pb.PutRequest(key=b"/program"), _CALL_S, ())
        for number, (method, message) in enumerate(steps):
            request = place.placed(message)
            expected, actual = [await _answer(member, method, request) for member in (real, fake)]
            assert actual == expected, f"step {number}, {method}"
        marker = pb.PutRequest(key=place.prefix + b"~")
        expected, actual = [await _answer(member, "KV/Put", marker) for member in (real, fake)]
        assert actual == expected
        end = server.store.revision
        starts = (place.revision + 1, (place.revision + end) // 2, end)
        events = [
            await asyncio.gather(*(_events(member, place, start, end) for start in starts)) for member in (fake, real)
        ]
        assert events[0] == events[1], "events of the watches"
        for number in (1, 2):
            await _answer(real, "Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=place.lease(number)))
    finally:
        await real.close()


def test_any_program_gets_the_same_answers(etcd_undisturbed: EtcdCluster) -> None:
    """Results, errors with their texts, revisions, keys of leases and the events of a watch are equal."""

    @cases(60)
    @given(st.lists(STEPS, max_size=14))
    def search(steps: list[tuple[str, Any]]) -> None:
        asyncio.run(_check_same_responses(etcd_undisturbed.endpoints[0], steps))

    search()
