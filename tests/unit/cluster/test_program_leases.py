"""Whether a lease was renewed, as far as etcd's whole seconds show it."""

from __future__ import annotations

import pytest

from nodestore.cluster.program_leases import LeaseState, was_renewed


@pytest.mark.parametrize(
    ("left_s", "ttl_s", "passed_s", "renewed"),
    [
        (1, 2, 0.0, None),
        (1, 2, 1.0, None),  # it may have been renewed just before
        (1, 2, 1.1, True),
        (0, 2, 2.1, None),  # it has ended, and etcd has not removed it yet
        (0, 2, 6.9, None),
        (0, 2, 7.1, True),  # a renewal in each second, always seen when less than one second was left
        (59, 60, 0.9, None),
        (59, 60, 1.1, True),
    ],
)
def test_a_renewal_is_seen_only_if_it_happened(left_s: int, ttl_s: int, passed_s: float, renewed: bool | None) -> None:
    assert was_renewed(LeaseState(left_s, ttl_s), passed_s) is renewed
