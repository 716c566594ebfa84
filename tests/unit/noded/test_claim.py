"""The rule of the claim `alive/<node>`."""

from __future__ import annotations

import pytest

from noded.registration.claim import Me, Verdict, judge
from nodestore.etcd.session import KV
from nodestore.schema.models import Alive

ME = Me("n1", "this-host", "mine")


def claim(host_id: str, nonce: str, lease: int = 7) -> KV:
    return KV("alive/n1", Alive(host_id=host_id, nonce=nonce, host="pc").encode(), 1, 2, 1, lease)


@pytest.mark.parametrize(
    ("found", "held", "verdict"),
    [
        (None, False, Verdict.CLAIM),
        (None, True, Verdict.CLAIM),
        (claim("this-host", "mine"), True, Verdict.OURS),
        (claim("this-host", "mine"), False, Verdict.OURS),  # our first put, whose answer was lost
        (claim("this-host", "mine", lease=6), True, Verdict.CLAIM),  # still on the lease we have lost
        (claim("this-host", "older"), False, Verdict.CLAIM),
        (claim("this-host", "newer"), True, Verdict.SUPERSEDED),
        (claim("other-host", "theirs"), False, Verdict.WAIT),
        (claim("other-host", "theirs"), True, Verdict.SUPERSEDED),
        (claim("other-host", "theirs", lease=0), False, Verdict.CLAIM),
        (claim("other-host", "theirs", lease=0), True, Verdict.SUPERSEDED),
        (KV("alive/n1", b"garbage", 1, 2, 1, 0), False, Verdict.CLAIM),
        (KV("alive/n1", b"garbage", 1, 2, 1, 0), True, Verdict.CLAIM),
    ],
)
def test_who_has_the_node(found: KV | None, held: bool, verdict: Verdict) -> None:
    """Same host: put over; other host: wait; once ours, any other nonce ends us."""
    assert judge(found, ME, 7, held=held) is verdict
