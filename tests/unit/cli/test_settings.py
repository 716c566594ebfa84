"""Which configuration file `nodectl` reads."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from nodectl.cli.settings import Options, config_path, pc_config_path
from nodestore.errors import Invalid


@pytest.mark.skipif(sys.platform == "win32", reason="the paths of Linux")
def test_the_file_of_the_pc_is_read_by_users_that_have_none(tmp_path: Path) -> None:
    """`nodectl host init` writes it, so `nodectl status` needs no option on that PC."""
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "home"), "NODECTL_ROOT": str(tmp_path / "pc")}
    own, of_pc = tmp_path / "home" / "nodectl" / "config.yaml", pc_config_path(environ)
    assert config_path(environ) == own  # there is none at all: messages name the user's
    for path in (of_pc, own):
        path.parent.mkdir(parents=True)
        path.touch()
        assert config_path(environ) == path
    assert config_path({**environ, "NODECTL_CONFIG": "/elsewhere"}) == Path("/elsewhere")


def test_a_pc_that_has_joined_says_where_nodectl_needs_no_settings(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "home"), "APPDATA": str(tmp_path), "NODECTL_ROOT": str(tmp_path)}
    of_pc = pc_config_path(environ)
    with pytest.raises(Invalid, match=r"define clusters in [^.]*config.yaml$"):
        Options().resolve(environ)
    of_pc.parent.mkdir(parents=True)
    of_pc.with_name("host.json").touch()
    with pytest.raises(Invalid, match=r"has joined a cluster: on the first PC of that cluster, `sudo nodectl` needs"):
        Options().resolve(environ)


def test_who_may_not_read_the_settings_of_the_pc_learns_to_use_sudo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "home"), "APPDATA": str(tmp_path), "NODECTL_ROOT": str(tmp_path)}
    of_pc = pc_config_path(environ)
    of_pc.parent.mkdir(parents=True)
    of_pc.touch()
    monkeypatch.setattr(os, "access", lambda path, mode: path != of_pc)
    with pytest.raises(Invalid, match=r"this user may not read .*nodectl.yaml.*: use sudo"):
        Options().resolve(environ)
