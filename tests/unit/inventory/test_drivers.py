"""Drivers in an inventory: their names and settings are checked before anything is applied, all with their lines."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from nodectl.inventory import drivers
from nodectl.inventory.file import InventoryFile, check_inventory
from nodectl.inventory.yaml_source import FileError, YamlSource


def _check(text: str, **options: Any) -> InventoryFile:
    return check_inventory(YamlSource("f", text), **options)


def _problems(text: str) -> tuple[str, ...]:
    with pytest.raises(FileError) as caught:
        _check(text)
    return caught.value.problems


def test_all_mistakes_are_named_with_their_lines() -> None:
    """A shared setting has the line where it is written, however many nodes use it."""
    text = """
defaults:
  driver:
    name: process
    settings:
      argv: [a]
      grace: 1
nodes:
  n1: {}
  n2: {}
  n3:
    driver:
      name: process
      settings:
        settle_s: -1
        health:
          tcp: nonsense
  n4: {driver: {name: exec}}
  n5: {driver: {name: proces, settings: {argv: [a]}}}
  n6: {driver: {name: file, settings: {path: /x, format: text}}}
"""
    found = _problems(text)
    assert [problem.split(" ")[0] for problem in found] == [
        "f:7:", "f:15:", "f:17:", "f:18:", "f:19:", "f:20:",
    ]  # fmt: skip
    assert (
        "defaults.driver.settings.grace: this setting of driver process is not known; did you mean 'grace_s'?"
        in (found[0])
    )
    assert "nodes.n3.driver.settings.settle_s: expected greater than or equal to 0" in found[1]
    assert "nodes.n3.driver.settings.health.tcp: 'nonsense' is not host:port" in found[2]
    assert "nodes.n4.driver.settings.argv: is missing: driver exec needs it" in found[3]
    assert "nodes.n5.driver.name: there is no driver 'proces'; did you mean 'process'?" in found[4]
    assert "nodes.n6.driver.settings: format text needs a template" in found[5]


def test_a_node_completes_the_settings_of_the_default_driver() -> None:
    """Only what a node really gets is checked: what a node overrides need not be right in the default."""
    default = "defaults: {driver: {name: process, settings: {grace_s: 1}}}\n"
    _check(default + "nodes: {n1: {driver: {name: process, settings: {argv: [a]}}}}")
    _check(default + "nodes: {}")
    _check(default + "nodes: {n1: {driver: {name: exec, settings: {argv: [a]}}}}")
    assert "defaults.driver.settings.argv: is missing" in _problems(default + "nodes: {n1: {}}")[0]
    assert (
        "nodes.n1.driver.settings.argv: is missing"
        in (_problems(default + "nodes: {n1: {driver: {name: exec, settings: {}}}}")[0])
    )


def test_a_driver_that_is_not_installed_here_is_only_a_warning() -> None:
    """It may be installed on the nodes. The warning has its line."""
    loaded = _check("nodes:\n  n1: {driver: {name: relay, settings: {any: thing}}}")
    assert loaded.warnings == (
        "f:2: nodes.n1.driver.name: driver 'relay' is not installed on this PC (exec, file, process): its settings are "
        "not checked",
    )


def test_the_check_can_be_left_out() -> None:
    """For applications that complete the settings themselves."""
    text = "defaults: {driver: {name: process}}\nnodes: {n1: {}}"
    assert _check(text, drivers=False).warnings == ()
    assert len(_problems(text)) == 1


class RelaySettings(BaseModel):
    """The settings of a driver of somebody else."""

    model_config = ConfigDict(extra="forbid")
    pin: int


class Relay:
    """A driver of somebody else, with a model of its settings."""

    settings_model = RelaySettings


class Silent:
    """A driver of somebody else, without one."""


def test_drivers_of_others_are_checked_by_their_own_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has none, or that cannot be imported here, is not checked."""
    found = [EntryPoint(name, f"{__name__}:{name}", "") for name in ("Relay", "Silent", "Missing")]
    monkeypatch.setattr(drivers, "entry_points", lambda group: found)
    for name in ("Silent", "Missing"):
        assert _check(f"nodes: {{n1: {{driver: {{name: {name}, settings: {{pin: x}}}}}}}}").warnings == ()
    assert (
        "f:1: nodes.n1.driver.settings.pin: expected a valid integer"
        in (_problems("nodes: {n1: {driver: {name: Relay, settings: {pin: x}}}}")[0])
    )
