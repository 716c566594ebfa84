"""A Linux kit that is built for real: the same bytes twice, and a cluster of one PC where nothing but libc is."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest

from nodectl.kits.build import BYTES_MAX, BuiltKit, KitWish, build
from nodectl.kits.platforms import PLATFORMS
from nodectl.kits.verify import verify
from nodestore.errors import Unavailable
from tests.support.kits.empty_root import EmptyRoot, reason_against

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


def _build(target: Path) -> BuiltKit:
    try:
        return build(KitWish(platform=PLATFORMS["linux-amd64"], target=target), print)
    except Unavailable as error:
        pytest.skip(f"a kit cannot be fetched here: {error}")


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> BuiltKit:
    return _build(tmp_path_factory.mktemp("kit") / "one.tar.gz")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_same_inputs_give_the_same_bytes(kit: BuiltKit, tmp_path: Path) -> None:
    assert kit.size_bytes <= BYTES_MAX
    assert verify(kit.file).manifest == kit.manifest
    assert _digest(_build(tmp_path / "two.tar.gz").file) == _digest(kit.file)


def test_one_command_makes_a_cluster_where_nothing_but_libc_is(kit: BuiltKit, tmp_path: Path) -> None:
    """No Python, no network, no environment: the kit installs itself, and the first PC of a cluster runs."""
    if (reason := reason_against()) is not None:
        pytest.skip(reason)
    root = EmptyRoot(tmp_path / "root", tmp_path / "work")
    with tarfile.open(kit.file) as archive:
        archive.extractall(root.folder, filter="data")
    folder = f"/nodectl-{kit.manifest.release}-linux-amd64"
    versions = root.run(f"cd {folder} && ./nodectl version && ./masterd --version && ./noded --version")
    assert versions.returncode == 0, versions.stderr
    assert versions.stdout.split() == [
        word for name in ("nodectl", "masterd", "noded") for word in (name, kit.manifest.nodectl)
    ]
    init = "host init --name wall --address 127.0.0.1 --host pc1 --services processes"
    began = root.run(f"{folder}/nodectl {init} && nodectl --config /etc/nodectl/nodectl.yaml status")
    assert began.returncode == 0, began.stdout + began.stderr
    assert "./nodectl host join 127.0.0.1 --token" in began.stdout
    installed = root.folder / "opt/nodectl" / kit.manifest.release
    assert (
        f'"python": "/opt/nodectl/{kit.manifest.release}/python/bin/python3.11"'
        in (root.folder / "etc/nodectl/host.json").read_text()
    )
    assert verify(installed).manifest == kit.manifest
