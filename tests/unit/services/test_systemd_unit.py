"""Units made from service definitions: what systemd itself says of them, and that the shipped files are current."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from nodestore.errors import Invalid
from nodestore.services.definitions import HOSTD, MASTERD, NODED, SERVICES
from nodestore.services.manager import ServiceDefinition, ServiceDirectory
from nodestore.services.shipped_units import main, shipped_units
from nodestore.services.systemd_unit import unit_text

ROOT = Path(__file__).parents[3]
_EXPOSURE_MAX = {"nodectl-etcd": 3.0, "nodectl-masterd": 3.0, "nodectl-hostd": 3.0, "nodectl-noded": 8.0}
"""Highest exposure by `systemd-analyze security`. noded's unit says what it leaves open, and why."""


def written(directory: Path, definitions: Mapping[str, ServiceDefinition] = SERVICES) -> list[str]:
    """Write the units, with programs that exist, because `verify` looks for them. Return their paths."""
    for name, definition in definitions.items():
        argv = ("/bin/true", *definition.argv[1:])
        (directory / f"{name}.service").write_text(unit_text(replace(definition, argv=argv)), encoding="utf-8")
    return [str(directory / f"{name}.service") for name in definitions]


def analyzed(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    """An unknown setting would be ignored, with a line in the journal that few read."""
    done = analyzed("verify", "--man=no", *written(tmp_path))
    assert (done.stdout + done.stderr).strip() == ""
    assert done.returncode == 0


def test_no_service_is_more_exposed_than_it_must_be(tmp_path: Path) -> None:
    for path in written(tmp_path):
        done = analyzed("security", "--offline=true", "--no-pager", path)
        found = re.search(r"Overall exposure level for (\S+)\.service: ([\d.]+)", done.stdout)
        assert found is not None, done.stderr
        assert float(found[2]) <= _EXPOSURE_MAX[found[1]], done.stdout


def test_the_shipped_files_are_current() -> None:
    """`make services` writes them."""
    for path, text in shipped_units().items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, path


def test_the_files_are_written_into_a_clone_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "usage: " in capsys.readouterr().err
    for folder in ("etc", "etcd"):
        (tmp_path / folder).mkdir()
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "etcd/nodectl-etcd.service").read_text(encoding="utf-8").startswith("# One etcd member")


def test_each_service_has_a_user_of_its_own_and_comes_back() -> None:
    users = [definition.user for definition in SERVICES.values()]
    assert len(set(users)) == len(users)
    for definition in SERVICES.values():
        text = unit_text(definition)
        assert "Restart=always" in text
        assert "StartLimitIntervalSec=0" in text


def test_nothing_is_ordered_after_what_may_never_be_ready() -> None:
    """etcd is ready with a quorum only, and network-online.target only if the cable is plugged in."""
    notifies = {definition.name for definition in SERVICES.values() if definition.notify}
    for definition in SERVICES.values():
        assert not notifies & set(definition.stops_before)
        after = re.findall(r"^(?:After|Requires|BindsTo|Wants)=(.*)$", unit_text(definition), re.MULTILINE)
        assert " ".join(after).split() == ["network.target", *(f"{name}.service" for name in definition.stops_before)]


def test_delays_grow_where_systemd_can(tmp_path: Path) -> None:
    """Debian 12 has systemd 252, which has only a constant delay."""
    assert "RestartSteps" not in unit_text(MASTERD, systemd_version=253)
    assert "RestartSec=1\nRestartSteps=5\nRestartMaxDelaySec=30\n" in unit_text(MASTERD, systemd_version=254)


def test_texts_are_passed_on_as_they_are(tmp_path: Path) -> None:
    """systemd replaces %, $ and quotes. It is asked for the command line that it would run."""
    odd = ('--name=50% "off"', "$HOME", "a\\b", "it's", ";", "")
    definition = replace(NODED, argv=("/bin/echo", *odd), env={"A": 'b "c" %d $e'})
    text = unit_text(definition)
    assert r'ExecStart=/bin/echo "--name=50%% \"off\"" $$HOME a\\b "it\'s" ";" ""'.replace(r"\'", "'") in text
    assert 'Environment="A=b \\"c\\" %%d $e"' in text


def test_a_line_break_is_refused() -> None:
    """It could add settings, such as a command that runs as root."""
    for bad in (
        replace(HOSTD, argv=("/bin/true", "a\nExecStartPre=/bin/sh")),
        replace(HOSTD, description="a\rb"),
        replace(HOSTD, env={"A": "b\nc"}),
        replace(HOSTD, user="root\nAmbientCapabilities=CAP_SYS_ADMIN"),
    ):
        with pytest.raises(Invalid, match="line break"):
            unit_text(bad)


def test_directories_elsewhere_are_opened_one_by_one() -> None:
    places = (
        ServiceDirectory(PurePosixPath("/srv/wall data")),
        ServiceDirectory(PurePosixPath("/var/lib/nodectl/x")),
        ServiceDirectory(PurePosixPath("/opt/kit"), writable=False),
    )
    text = unit_text(replace(MASTERD, directories=places))
    assert 'ReadWritePaths="/srv/wall data"\n' in text
    assert "StateDirectory=nodectl/x\n" in text
    assert "ReadOnlyPaths=/opt/kit\n" in text
