"""What is done with the authorities is on record, bounded, and a disk that is full stops no revocation."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from nodestore.pki import act_log
from nodestore.pki.act_log import ACTS, ActLog
from nodestore.pki.authority import Authorities
from nodestore.pki.identity import Subject

MASTERD = Subject.parse("masterd:pc1")


def shown(directory: Path) -> list[tuple[str, str]]:
    lines = (directory / ACTS).read_text().splitlines()
    return [(item["event"], item["detail"]) for item in map(json.loads, lines)]


def test_each_act_is_recorded_once_however_often_it_is_repeated(tmp_path: Path) -> None:
    authorities = Authorities(tmp_path / "pki", lambda: 5.0)
    for _ in range(2):
        authorities.init("plant")
        authorities.issue(MASTERD, ["pc1"])
    [issued] = authorities.records().issued
    for _ in range(2):
        authorities.revoke(MASTERD)
    assert shown(tmp_path / "pki") == [
        ("authority made", "cluster of plant"), ("authority made", "peers of plant"),
        ("certificate issued", f"masterd:pc1 of cluster, serial {issued.serial}"),
        ("certificates revoked", f"masterd:pc1: {issued.serial}"),
    ]  # fmt: skip
    entry = json.loads((tmp_path / "pki" / ACTS).read_text().splitlines()[0])
    assert (entry["time"], entry["principal"][:5], entry["request"]) == (5.0, "user:", "nodectl pki")


def test_the_record_is_bounded_and_a_line_that_was_cut_stays_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(act_log, "FILE_BYTES_MAX", 1_000)
    log = ActLog(tmp_path, lambda: 5.0)
    for number in range(50):
        log.record("certificate issued", str(number))
    assert sorted(path.name for path in tmp_path.iterdir()) in ([f"{ACTS}.1"], [ACTS, f"{ACTS}.1"])
    assert all(path.stat().st_size < 1_500 for path in tmp_path.iterdir())
    (tmp_path / ACTS).write_text('{"time":')
    log.record("certificate issued", "last")
    assert json.loads((tmp_path / ACTS).read_text().splitlines()[1])["detail"] == "last"


def test_a_record_that_cannot_be_written_stops_no_revocation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authorities = Authorities(tmp_path)
    authorities.init("plant")
    authorities.issue(MASTERD, ["pc1"])
    (tmp_path / ACTS).unlink()
    (tmp_path / ACTS).mkdir()
    with caplog.at_level(logging.WARNING):
        assert len(authorities.revoke(MASTERD)) == 1
    assert "it lacks: certificates revoked: masterd:pc1" in caplog.text
