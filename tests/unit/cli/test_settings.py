"""Which configuration file `nodectl` reads."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nodectl.cli.settings import config_path, pc_config_path


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
