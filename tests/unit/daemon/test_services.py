"""The service files in etc/: their examples are what the programs take, and a stop leaves time for what it does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from masterd import settings as masterd_settings
from masterd.roles import master
from noded import settings as noded_settings

ROOT = Path(__file__).parents[3]


def unit(name: str) -> str:
    return (ROOT / "etc" / f"nodectl-{name}.service").read_text(encoding="utf-8")


def environment(name: str, directory: Path) -> dict[str, str]:
    """The example, with files in `directory` for those that it names in /etc/nodectl."""
    found = dict(re.findall(r"^#   (NODECTL_\w+)=(.+)$", unit(name), re.MULTILINE))
    for variable, value in found.items():
        if value.startswith("/etc/nodectl/"):
            file = directory / Path(value).name
            file.touch()
            found[variable] = str(file)
    return found


def stop_s(text: str, pattern: str) -> float:
    found = re.search(pattern, text)
    assert found is not None
    return float(found.group(1))


def test_masterd_takes_the_example_environment(tmp_path: Path) -> None:
    """Every name in it is an option, and the shared etcd's limits are those of our files for etcd."""
    example = environment("masterd", tmp_path)
    chosen = masterd_settings.parse([], example)
    assert (chosen.master, chosen.cluster, len(chosen.etcd.endpoints)) == ("pc1", "wall", 3)
    assert chosen.advertise == "https://192.168.10.11:8401"
    assert chosen.tls is not None
    assert [path.name for path in chosen.tls.paths] == ["ca.crt", "pc1.crt", "pc1.key", "ca.crl"]
    assert chosen.exposure is None
    assert (chosen.master_settings.leader.max_txn_ops, chosen.master_settings.leader.request_bytes_max) == (
        4096,
        8 << 20,
    )
    assert chosen.maintenance.cert == Path(example["NODECTL_MAINTENANCE_CERT"])
    assert len(example) == 15


def test_noded_takes_the_example_environment(tmp_path: Path) -> None:
    """Every name in it is an option."""
    example = environment("noded", tmp_path)
    chosen = noded_settings.parse([], example)
    assert (chosen.node, chosen.cluster) == ("pc1", "wall")
    assert chosen.work_dir == Path(example["NODECTL_WORK_DIR"]).absolute()
    assert chosen.tls is not None
    assert [path.name for path in chosen.tls.paths] == ["ca.crt", "pc1.crt", "pc1.key", "ca.crl"]
    assert len(example) == 8


@pytest.mark.parametrize("name", ["masterd", "noded"])
def test_a_service_comes_back_and_is_given_time_to_stop(name: str) -> None:
    """On Windows too, where NSSM counts in milliseconds; a handover alone may take four seconds."""
    text, page = unit(name), (ROOT / "docs" / "services.md").read_text(encoding="utf-8")
    assert "Restart=always" in text
    given_s = stop_s(text, r"TimeoutStopSec=(\d+)")
    assert given_s > 2 * master.STAND_DOWN_S
    assert stop_s(page, r"AppStopMethodConsole (\d+)") == given_s * 1000
