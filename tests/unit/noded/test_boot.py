"""Whether the PC has rebooted in between."""

from __future__ import annotations

import sys

import psutil
import pytest

from noded.actions import boot
from nodestore.support.boot import kernel_boot_id


@pytest.mark.parametrize(
    ("was", "now", "verdict"),
    [
        ("pc:aaaa", "pc:bbbb", True),
        ("pc:aaaa", "pc:aaaa", False),
        ("pc:@1000", "pc:@2000", True),
        ("pc:@1000", "pc:@1030", False),  # the clock was put right
        ("pc:@2000", "pc:@1000", False),  # the clock went back: no boot is earlier than the last one
        ("other:aaaa", "pc:bbbb", False),
        ("a:b:aaaa", "a:b:bbbb", True),  # a host id may hold anything
        ("pc:", "pc:bbbb", False),
        ("pc:aaaa", "pc:", False),
        ("pc:@1000", "pc:bbbb", False),
        ("pc:@x", "pc:@1000", False),
        ("", "pc:bbbb", False),
    ],
)
def test_only_what_is_sure_counts(was: str, now: str, verdict: bool) -> None:
    """A reboot counts only if the PC is the same, both boot ids are of one kind, and the later one differs."""
    assert boot.has_rebooted(was, now) is verdict


def test_the_id_of_this_boot() -> None:
    """Stays the same, and is not empty."""
    assert boot.boot_record("pc") == boot.boot_record("pc")
    assert not boot.has_rebooted(boot.boot_record("pc"), boot.boot_record("pc"))
    assert boot.boot_id()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has one")
def test_the_kernels_own_id_comes_first() -> None:
    """A clock that is put right does not change it."""
    assert len(kernel_boot_id()) == 36
    assert boot.boot_id() == kernel_boot_id()


@pytest.mark.skipif(sys.platform == "win32", reason="that is the way there")
def test_the_id_where_the_kernel_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it booted, by the PC's clock."""
    monkeypatch.setattr(sys, "platform", "other")
    assert kernel_boot_id() == ""
    assert abs(int(boot.boot_id().removeprefix("@")) - psutil.boot_time()) < 5
