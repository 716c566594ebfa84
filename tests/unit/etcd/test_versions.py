"""Which versions of etcd may hold our data."""

from __future__ import annotations

import pytest

from nodestore.errors import Invalid
from nodestore.etcd.versions import OVERRIDE, access_control_gaps, check_version, why_too_old


@pytest.mark.parametrize(
    ("version", "defect"),
    [
        ((3, 4, 23), "lacks"),
        ((3, 5, 1), "corrupt data"),
        ((3, 5, 12), "slow disk"),
        ((3, 5, 16), "old data"),
        ((3, 5, 29), "another user"),
        ((3, 5, 30), None),
        ((3, 5, 33), None),
        ((3, 6, 0), "3.6.11"),
        ((3, 6, 10), "another user"),
        ((3, 6, 11), None),
        ((3, 7, 0), None),
        ((4, 0, 0), None),
    ],
)
def test_an_old_etcd_is_refused_with_the_reason(version: tuple[int, int, int], defect: str | None) -> None:
    reason = why_too_old(version)
    if defect is None:
        assert reason is None
    else:
        assert reason is not None
        assert defect in reason


def test_who_is_too_old_is_named_and_a_test_may_insist() -> None:
    with pytest.raises(Invalid, match=r"pc1 is version 3\.5\.1: .*corrupt"):
        check_version("3.5.1", "pc1", {})
    check_version("3.5.1", "pc1", {OVERRIDE: "1"})
    with pytest.raises(Invalid, match="pc1: 'new' is not a version of etcd"):
        check_version("new", "pc1", {})


@pytest.mark.parametrize(
    ("version", "gaps"),
    [
        ("3.4.40", 2), ("3.5.32", 2), ("3.5.33", 1), ("3.6.13", 1), ("3.6.14", 0), ("3.7.0", 1), ("3.7.1", 0),
        ("3.8.0", 0), ("unknown", 0),
    ],
)  # fmt: skip
def test_versions_whose_access_control_has_gaps(version: str, gaps: int) -> None:
    assert len(access_control_gaps(version)) == gaps
