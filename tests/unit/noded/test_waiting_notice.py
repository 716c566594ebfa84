"""A noded that waits for another host's claim shows it in etcd, if its user may."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from noded.registration.waiting_notice import WaitingNotice
from nodestore.errors import Denied, LeaseLost, NodectlError, Unavailable
from nodestore.etcd.session import KV, Compare, Etcd, Op
from nodestore.schema.models import Waiting, decode

_CLAIM = KV("alive/n1", b"{}", 1, 5, 1, 7)


class _Etcd:
    """Records transactions; raises `error`, or answers with `succeeds`."""

    def __init__(self) -> None:
        self.txns: list[tuple[Sequence[Compare], Sequence[Op]]] = []
        self.error: NodectlError | None = None
        self.succeeds = True

    async def txn(self, compares: Sequence[Compare], then: Sequence[Op], *, repeatable: bool) -> Any:
        assert repeatable
        self.txns.append((compares, then))
        if self.error is not None:
            raise self.error
        return self

    @property
    def succeeded(self) -> bool:
        return self.succeeds


def _notice(etcd: _Etcd) -> WaitingNotice:
    return WaitingNotice(cast(Etcd, etcd), "waiting/n1/mine", "host-b", "mine")


async def test_the_notice_is_bound_to_the_claim_and_to_the_lease() -> None:
    """A late copy fails once the claim is another one, and the key ends with the process."""
    etcd = _Etcd()
    notice = _notice(etcd)
    await notice.show(_CLAIM, 9)
    ((compare,), (put,)) = etcd.txns[0]
    assert (compare.key, compare.mod_revision) == (b"alive/n1", 5)
    assert (put.request_put.key, put.request_put.lease) == (b"waiting/n1/mine", 9)
    assert decode(Waiting, put.request_put.value, "waiting/n1/mine").host_id == "host-b"
    (delete,) = notice.end()
    assert delete.request_delete_range.key == b"waiting/n1/mine"
    assert notice.end() == []


async def test_a_claim_that_has_changed_leaves_nothing_to_end() -> None:
    """The transaction that writes our claim then needs no right on the key of the notice."""
    etcd = _Etcd()
    etcd.succeeds = False
    notice = _notice(etcd)
    await notice.show(_CLAIM, 9)
    assert notice.end() == []


async def test_a_user_without_the_right_waits_without_a_notice(caplog: pytest.LogCaptureFixture) -> None:
    """One line in the log, and no further attempt; an outage of etcd is retried by the caller."""
    etcd = _Etcd()
    notice = _notice(etcd)
    etcd.error = Unavailable("no member answers")
    with pytest.raises(Unavailable):
        await notice.show(_CLAIM, 9)
    etcd.error = Denied("permission denied")
    await notice.show(_CLAIM, 9)
    await notice.show(_CLAIM, 9)
    assert (len(etcd.txns), len(caplog.records), notice.end()) == (2, 1, [])


async def test_a_lost_lease_is_no_refusal() -> None:
    """The caller claims the node again with a new lease, and a noded that then still waits shows it."""
    etcd = _Etcd()
    notice = _notice(etcd)
    etcd.error = LeaseLost("requested lease not found")
    with pytest.raises(LeaseLost):
        await notice.show(_CLAIM, 9)
    etcd.error = None
    await notice.show(_CLAIM, 10)
    assert (len(etcd.txns), len(notice.end())) == (2, 1)
