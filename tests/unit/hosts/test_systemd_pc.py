"""The check for paths that a PC with systemd cannot see, which needs neither root nor systemd."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.hosts.lan.systemd_pc import check_visible


@pytest.mark.parametrize("path", ["/tmp/checkout", "/run/etcd", "/tmp"])  # noqa: S108 - nothing is written
def test_a_path_in_a_file_system_of_the_pc_itself_fails_the_test_in_one_line(path: str) -> None:
    with pytest.raises(pytest.fail.Exception) as caught:
        check_visible(["/home/visible", path])
    assert f"{path} is below " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_link_to_such_a_path_fails_the_test(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/run")
    with pytest.raises(pytest.fail.Exception):
        check_visible([str(link)])


def test_all_other_paths_pass() -> None:
    check_visible(["/home/checkout", "/runs/checkout", "/usr/bin/etcd", "../tmp/relative"])
