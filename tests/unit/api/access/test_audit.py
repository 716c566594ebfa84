"""The audit log records refusals and changes, bounded in memory and on disk, and never waits for the disk."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import aiohttp
import pytest

from masterd.api.access import audit
from masterd.api.access.audit import ENTRIES_MAX, AuditLog
from masterd.roles.principal import Kind, Principal
from tests.support.fakes.access import AccessCase
from tests.support.fakes.masterd_parts import serving

JO = Principal(Kind.TOKEN, "jo", "viewer", address="10.0.0.7")


async def test_refusals_are_on_record() -> None:
    """Who, from where, what, and why: with and without a credential, by a foreign page and by an invalid token."""
    case = AccessCase()
    viewer, admin = case.grant("viewer"), case.grant("admin")
    async with serving(case.masterd) as url, aiohttp.ClientSession() as session:
        for headers in (viewer, viewer, {}, {"Authorization": "Bearer x"}, {"Origin": "http://evil.example"}):
            async with session.put(f"{url}/v1/config", json={}, headers=headers) as answer:
                assert answer.status in (401, 403)
        async with session.get(f"{url}/v1/audit", headers=viewer) as answer:
            assert answer.status == 403
        async with session.get(f"{url}/v1/audit", headers=admin) as answer:
            found = (await answer.json())["entries"]
    shown = [(item["principal"], item["request"], item["detail"].split(":")[0], item["count"]) for item in found]
    assert shown == [
        ("token:viewer", "PUT /v1/config", "token", 2),
        ("stranger", "PUT /v1/config", "no credential", 1),
        ("stranger", "PUT /v1/config", "invalid credential", 1),
        ("stranger", "PUT /v1/config", "a web page of 'http", 1),
        ("token:viewer", "GET /v1/audit", "token", 1),
    ]
    assert all(item["event"] == "refused" and item["address"] == "127.0.0.1" for item in found)


async def test_a_flood_is_one_entry() -> None:
    log = AuditLog(clock=lambda: 5.0)
    for number in range(10_000):
        log.record("refused", JO, request=f"GET /{number}")
    entries = await log.entries(ENTRIES_MAX)
    assert len(entries) < 200
    assert sum(entry["count"] for entry in entries) == 10_000
    assert entries[-1]["principal"] == "others"
    await log.close()


async def test_entries_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, lambda: 5.0)
    log.record("token created", JO, detail="panel")
    await log.close()
    if os.name != "nt":
        assert path.stat().st_mode & 0o777 == 0o600
    with path.open("ab") as file:
        file.write(b"half a li")  # as after a power cut
    again = AuditLog(path, lambda: 6.0)
    again.record("token revoked", JO)
    await again.close()
    found = await AuditLog(path).entries(10)
    assert [entry["event"] for entry in found] == ["token created", "token revoked"]


async def test_the_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "FILE_BYTES_MAX", 2_000)
    path = tmp_path / "audit.jsonl"
    now = [0.0]
    log = AuditLog(path, lambda: now[0])
    for number in range(100):
        now[0] = float(number)
        log.record("refused", JO, request=f"GET /{number}")
        await log.entries(1)
    await log.close()
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(tmp_path)}
    assert sorted(sizes) == ["audit.jsonl", "audit.jsonl.1"]
    assert sum(sizes.values()) < 5_000
    assert (await log.entries(1))[0]["request"] == "GET /99"


async def test_a_disk_that_takes_nothing_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = AuditLog(tmp_path / "missing" / "audit.jsonl")
    for _ in range(3):
        log.record("refused", JO)
        assert [entry["event"] for entry in await log.entries(10)][-1] == "refused"
        await asyncio.sleep(0)
    await log.close()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "No such file" in caplog.text or "cannot find" in caplog.text
