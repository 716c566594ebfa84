"""The choice of the manager of services."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostd.pc.layout import Layout
from hostd.pc.managers import find_nssm, manager_of
from nodestore.errors import Invalid
from nodestore.services.nssm import NssmServices
from nodestore.services.processes import ProcessServices
from nodestore.services.systemd import SystemdServices


def test_each_kind_has_its_manager(tmp_path: Path) -> None:
    (tmp_path / "nssm.exe").touch()
    layout = Layout(tmp_path)
    assert isinstance(manager_of("processes", layout), ProcessServices)
    assert isinstance(manager_of("systemd", layout), SystemdServices)
    assert isinstance(manager_of("nssm", layout), NssmServices)
    assert find_nssm(tmp_path) == tmp_path / "nssm.exe"


def test_without_nssm_it_is_said_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Invalid, match="put it at"):
        manager_of("nssm", Layout(tmp_path))
