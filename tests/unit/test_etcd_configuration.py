"""The operators' configuration files in etcd/: complete, consistent, and what the programs themselves would use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodestore.etcd_server import MEMORY_ENVIRONMENT, SETTINGS

FOLDER = Path(__file__).parents[2] / "etcd"
FILES = sorted(FOLDER.glob("*/pc*.yaml"))
OWN = {"name", "data-dir", "listen-client-urls", "advertise-client-urls", "listen-peer-urls",
       "initial-advertise-peer-urls", "initial-cluster", "initial-cluster-token", "initial-cluster-state"}  # fmt: skip


def load(file: Path) -> dict[str, Any]:
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert isinstance(settings, dict)
    return settings


def members(settings: dict[str, Any]) -> dict[str, str]:
    return dict(pair.split("=") for pair in settings["initial-cluster"].split(","))


def test_there_is_a_file_for_every_member() -> None:
    names = [f"{file.parent.name}/{file.stem}" for file in FILES]
    assert names == [*(f"five/pc{n}" for n in range(1, 6)), "one/pc1", *(f"three/pc{n}" for n in range(1, 4))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_file_holds_the_settings_that_the_project_is_tested_with(file: Path) -> None:
    settings = load(file)
    shared = {name: value for name, value in settings.items() if name not in OWN}
    shared["log-outputs"] = shared["log-outputs"][0]
    assert {name: str(value) for name, value in shared.items()} == dict(SETTINGS)
    assert set(settings) >= OWN


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_member_is_itself_and_knows_the_others(file: Path) -> None:
    settings = load(file)
    others = [other for other in FILES if other.parent == file.parent]
    assert settings["name"] == file.stem
    assert sorted(members(settings)) == [other.stem for other in others]
    assert members(settings)[file.stem] == settings["initial-advertise-peer-urls"] == settings["listen-peer-urls"]
    assert settings["advertise-client-urls"] in settings["listen-client-urls"].split(",")
    for other in others:
        assert members(load(other)) == members(settings)
        assert load(other)["initial-cluster-token"] == settings["initial-cluster-token"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_the_tls_part_is_valid_once_its_comments_are_taken_off(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    uncommented = re.sub(r"^# ((?:client|peer)-transport-security:|  )", r"\1", text, flags=re.MULTILINE)
    for side in ("client-transport-security", "peer-transport-security"):
        tls = yaml.safe_load(uncommented)[side]
        assert tls["client-cert-auth"] is True
        assert file.stem in tls["cert-file"]


def test_the_service_limits_memory_as_the_development_cluster_does() -> None:
    unit = (FOLDER / "nodectl-etcd.service").read_text(encoding="utf-8")
    limits = " ".join(f"{name}={value}" for name, value in MEMORY_ENVIRONMENT.items())
    assert f"Environment={limits}" in unit
    assert f"AppEnvironmentExtra {limits}" in (FOLDER / "README.md").read_text(encoding="utf-8")
