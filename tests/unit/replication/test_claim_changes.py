"""How often another noded claims a node."""

from __future__ import annotations

from masterd.replication.claim_changes import ClaimChanges
from masterd.replication.cluster_view import KeyMirror
from nodestore.etcd.watch import Event
from nodestore.schema.models import Alive

_PREFIX = "/alive/"


class _Claims:
    """The claims of nodes as a watch delivers them, and a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self._mirror = KeyMirror(_PREFIX, Alive, {}, lambda: None)
        self.changes = ClaimChanges(self._mirror, lambda: self.now)

    def claim(self, node: str, nonce: str | None, host: str = "pc1") -> None:
        value = None if nonce is None else Alive(host_id=host, nonce=nonce, host=host).encode()
        self._mirror.apply_event(Event(_PREFIX + node, value, 1, 1, 0))


def test_two_nodeds_that_take_a_claim_from_each_other_are_counted() -> None:
    """Also if the claim expires in between. A node that keeps its noded is not listed."""
    claims = _Claims()
    claims.claim("n2", "x")
    for turn in range(6):
        claims.claim("n1", f"{turn}", f"pc{turn % 2}")
        claims.claim("n1", None)
        claims.claim("n2", "x")
        claims.now += 2.0
    assert claims.changes.frequent() == {"n1": ["pc1", "pc0", "pc1", "pc0", "pc1"]}


def test_changes_long_ago_do_not_count() -> None:
    """A noded that is restarted once a day is no problem."""
    claims = _Claims()
    for turn in range(20):
        claims.claim("n1", f"{turn}")
        claims.now += 86_400.0
    assert claims.changes.frequent() == {}


def test_what_is_remembered_is_bounded() -> None:
    """Nodeds may claim any name, configured or not."""
    claims = _Claims()
    for number in range(3_000):
        for nonce in range(6):
            claims.claim(f"n{number}", f"{nonce}")
    assert len(claims.changes.frequent()) <= 2_000
