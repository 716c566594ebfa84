"""Problems of an etcd member, from its own status."""

from __future__ import annotations

from typing import Any

import pytest

from nodestore.cluster.overview import counts_toward_quorum

_WELL = {"healthy": True, "version": "3.5.30", "error": None}
_ALARMED = {"healthy": False, "version": "3.5.30", "error": "memberID:1 alarm:NOSPACE "}


@pytest.mark.parametrize(
    ("view", "counts"),
    [
        (_WELL, True),
        (_ALARMED, True),  # it accepts no writes, but it reports its status
        (_ALARMED | {"error": "memberID:1 alarm:NOSPACE ; etcdserver: no leader"}, False),
        (_ALARMED | {"error": "etcdserver: no leader"}, False),
        (_ALARMED | {"version": None, "error": "no answer within 1 s"}, False),
        ({"healthy": False, "error": "etcd does not say who its members are"}, False),
    ],
)
def test_a_member_counts_towards_the_quorum_if_it_answers_and_knows_a_leader(
    view: dict[str, Any], counts: bool
) -> None:
    """An alarm does not change that: a full etcd has a quorum."""
    assert counts_toward_quorum(view) is counts
