"""The text of the configuration that `nodectl host` writes is what its inventory says."""

from __future__ import annotations

from pathlib import Path

from hostd.placement.first_inventory import source_of
from nodectl.inventory.file import load_inventory


def test_the_text_can_be_applied_as_a_file(tmp_path: Path) -> None:
    nodes = {"pc1": {"address": "10.0.0.1"}, "pc2": {"address": "fd00::2"}}
    path = tmp_path / "wall.yaml"
    path.write_text(source_of(nodes))
    found = load_inventory(path).inventory
    assert {name: item.address for name, item in found.nodes.items()} == {"pc1": "10.0.0.1", "pc2": "fd00::2"}
