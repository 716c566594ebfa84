"""The rule of the claim `alive/<node>`."""

from __future__ import annotations

import pytest

from noded.registration.claim import ClaimDecision, NodedIdentity, decide_claim
from nodestore.etcd.session import KV
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
