"""The check for paths that a PC of the lab cannot see, which needs neither root nor systemd."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.lab import check_visible
from tests.lab.pc import LabError


@pytest.mark.parametrize("path", ["/tmp/checkout", "/run/etcd", "/tmp"])  # noqa: S108 - nothing is written
def test_a_path_in_a_file_system_of_the_pc_itself_is_reported_in_one_line(path: str) -> None:
    with pytest.raises(LabError) as caught:
        check_visible([Path("/home/visible"), Path(path)])
    assert str(caught.value).startswith(f"{path} is below ")
    assert "\n" not in str(caught.value)


def test_a_link_to_such_a_path_is_reported(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/run")
    with pytest.raises(LabError):
        check_visible([link])


def test_all_other_paths_pass() -> None:
    check_visible([Path("/home/checkout"), Path("/runs/checkout"), Path("/usr/bin/etcd")])
