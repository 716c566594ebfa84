"""Writes, checks and deletions of snapshots while something else changes the store."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from masterd.replication.images import Image
from masterd.state_machine.state import State, VersionedDocument
from nodestore.errors import Garbage, LeadershipLost
from tests.support.fakes.first_term import KEYS, Term1, first_term

NONCE = "ab" * 4
NAME = KEYS.snapshot_name(7, NONCE)
FIRST_CHUNK, MANIFEST = f"{KEYS.snapshot(NAME)}000000", f"{KEYS.snapshot(NAME)}manifest"


@pytest.fixture(autouse=True)
def _known_nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masterd.replication.snapshots.secrets.token_hex", lambda count: NONCE)


def _image() -> Image:
    return Image.of(State(index=7, documents={"x": VersionedDocument(7, {"a": 1})}))


async def _write(term: Term1) -> str:
    return await term.replica.snapshots.write(term.fence, _image(), 0.0)


async def _not_needed_write(term: Term1) -> None:
    assert await _write(term) == NAME


@pytest.mark.parametrize("key", [FIRST_CHUNK, MANIFEST])
async def test_a_leader_that_is_deposed_meanwhile_writes_no_further_key(key: str) -> None:
    async with first_term() as term:
        term.at(key, term.end)
        with pytest.raises(LeadershipLost):
            await _write(term)
        assert key.removeprefix(KEYS.snapshot(NAME)) not in term.keys(KEYS.snapshot(NAME))


async def test_a_snapshot_is_read_back_before_it_counts() -> None:
    """Whatever its writer believes, what is in the store decides."""
    async with first_term() as term:
        term.at(MANIFEST, lambda: term.put(FIRST_CHUNK, b"{}"))
        with pytest.raises(Garbage, match="is damaged"):
            await _write(term)
        assert term.replica.snapshots.verified == set()


async def test_a_manifest_does_not_land_after_its_chunks_were_deleted() -> None:
    async with first_term() as term:
        term.at(MANIFEST, lambda: term.delete(KEYS.snapshot(NAME)))
        with pytest.raises(Garbage, match="was deleted while it was written"):
            await _write(term)
        assert term.keys(KEYS.snapshot(NAME)) == []


def _restored(term: Term1) -> None:
    """What the commit of a restore does with the manifest."""
    term.put(MANIFEST, term.value(MANIFEST) or b"")


@pytest.mark.parametrize(("change", "deleted"), [(_restored, False), (lambda term: None, True)])
async def test_a_deletion_fails_if_a_restore_is_committed_before_it_lands(
    change: Callable[[Term1], None], deleted: bool
) -> None:
    async with first_term() as term:
        await _not_needed_write(term)
        term.at(KEYS.snapshot(NAME), lambda: change(term))
        assert await term.replica.snapshots.delete(term.fence, NAME, lambda name: False) is deleted
        assert (term.keys(KEYS.snapshot(NAME)) == []) is deleted


async def test_a_deposed_leader_deletes_no_snapshot() -> None:
    async with first_term() as term:
        await _not_needed_write(term)
        term.at(KEYS.snapshot(NAME), term.end)
        with pytest.raises(LeadershipLost):
            await term.replica.snapshots.delete(term.fence, NAME, lambda name: False)
        assert term.keys(KEYS.snapshot(NAME)) == ["000000", "000001", "manifest"]


async def test_a_damaged_snapshot_is_not_read() -> None:
    async with first_term() as term:
        await _not_needed_write(term)
        raw = term.value(f"{KEYS.snapshot(NAME)}000001") or b""
        term.put(f"{KEYS.snapshot(NAME)}000001", raw.replace(b'"a":1', b'"a":2'))
        assert await term.replica.snapshots.read_newest() is None
        with pytest.raises(Garbage, match="is damaged"):
            await term.replica.snapshots.read_documents(NAME)
