"""The audit log records refusals and changes, bounded in memory and on disk, and never waits for the disk."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import aiohttp
import pytest

from masterd.api.access import event_log
from masterd.api.access.audit import AuditLog, changes_file
from masterd.api.access.event_log import ENTRIES_MAX, EventLog
from masterd.roles.principal import Kind, Principal
from nodestore.support.tokens import new_token
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
        ("token:admin", "GET /v1/audit", "", 1),
    ]
    assert [item["event"] for item in found] == [*["refused"] * 5, "login"]
    assert all(item["address"] == "127.0.0.1" for item in found)


async def test_a_flood_is_one_entry() -> None:
    log = EventLog(clock=lambda: 5.0)
    for number in range(10_000):
        log.record("refused", JO, request=f"GET /{number}")
    entries = await log.entries(ENTRIES_MAX)
    assert len(entries) < 200
    assert sum(entry["count"] for entry in entries) == 10_000
    assert entries[-1]["principal"] == "others"
    await log.close()


async def test_entries_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = EventLog(path, lambda: 5.0)
    log.record("token created", JO, detail="panel")
    await log.close()
    if os.name != "nt":
        assert path.stat().st_mode & 0o777 == 0o600
    with path.open("ab") as file:
        file.write(b"half a li")  # as after a power cut
    again = EventLog(path, lambda: 6.0)
    again.record("token revoked", JO)
    await again.close()
    found = await EventLog(path).entries(10)
    assert [entry["event"] for entry in found] == ["token created", "token revoked"]


async def test_the_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "FILE_BYTES_MAX", 2_000)
    path = tmp_path / "audit.jsonl"
    now = [0.0]
    log = EventLog(path, lambda: now[0])
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
    log = EventLog(tmp_path / "missing" / "audit.jsonl")
    for _ in range(3):
        log.record("refused", JO)
        assert [entry["event"] for entry in await log.entries(10)][-1] == "refused"
        await asyncio.sleep(0)
    await log.close()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "No such file" in caplog.text or "cannot find" in caplog.text


@pytest.mark.parametrize("in_file", [True, False])
async def test_a_flood_of_refusals_removes_no_change(
    in_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the second in which both happen, nor when the flood lasts: a stranger could hide what an admin did."""
    monkeypatch.setattr(event_log, "FILE_BYTES_MAX", 20_000)
    now = [0.0]
    path = tmp_path / "audit.jsonl" if in_file else None
    log = AuditLog(path, lambda: now[0])
    for second in range(12):
        now[0] = float(second)
        for number in range(200):
            log.record_refusal(JO, request=f"GET /{second}/{number}", detail="no credential")
        if second == 1:
            log.record_change("token created", JO, detail="admin token x")
        await log.entries(1)
    await log.close()
    for limit in (1, 10, ENTRIES_MAX):
        entries = await log.entries(limit)
        assert [entry["detail"] for entry in entries if entry["event"] != "refused"] == ["admin token x"]
        assert len(entries) <= limit
        assert entries == sorted(entries, key=lambda entry: entry["time"])
    if path is not None:
        found = await AuditLog(path).entries(10)
        assert (found[0]["event"], found[-1]["event"]) == ("token created", "refused")
        assert changes_file(path).name == "audit-changes.jsonl"


async def test_few_changes_leave_the_room_to_refusals_and_the_reverse() -> None:
    now = [0.0]
    log = AuditLog(clock=lambda: now[0])
    for number in range(8):
        now[0] = float(number)
        log.record_change("token created", JO, detail=str(number))
    now[0] = 9.0
    log.record_refusal(JO, request="GET /", detail="no credential")
    entries = await log.entries(6)
    assert [entry["detail"] for entry in entries] == ["3", "4", "5", "6", "7", "no credential"]
    await log.close()


async def test_the_secret_of_a_token_is_not_recorded() -> None:
    """Its bearer may take the token for its id, in the path of the request that revokes it."""
    log, token = AuditLog(), new_token()
    log.record_refusal(JO, request=f"DELETE /v1/tokens/{token}", detail=f"DELETE /v1/tokens/{token} is not for you")
    [entry] = await log.entries(1)
    assert token.secret not in str(entry)
    assert entry["request"] == f"DELETE /v1/tokens/NCT1.{token.id}.***"
    await log.close()
