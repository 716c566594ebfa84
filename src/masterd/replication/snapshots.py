"""Snapshots: the whole state in chunks under `snapshots/<index>-<nonce>/`, the manifest last.

Every write is fenced, so a deposed leader cannot complete a snapshot. Chunks without a manifest are not a snapshot. A
snapshot counts as verified once it was read back and its hash checked; truncation requires two verified ones.

The manifest is written in a transaction that compares the first chunk. So once the chunks are deleted, no late copy of
that transaction can bring back a snapshot that was given up or deleted.

A snapshot that a replica may load as its state holds the command ids too. One that is kept under a name, or for a
restore, holds none (`Manifest.has_ids`): its floor is its index, so that a replica that must load it nevertheless
refuses repeats and runs none of them twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping

from masterd.replication.images import Image, encode_image, load_chunk
from masterd.state_machine.state import State
from nodestore.cluster.election import Fence
from nodestore.errors import Garbage, LeadershipLost, NotFound
from nodestore.etcd.session import KV, Compare, Etcd, Op, cmp_create, cmp_mod, op_delete, op_get, op_put
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import Manifest, decode
from nodestore.support.jsonio import Document

log = logging.getLogger(__name__)

_MANIFEST = "manifest"


def _check_untouched(name: str, manifest: Manifest, parts: Mapping[str, KV]) -> None:
    """Raise Garbage if a chunk is missing, or was written after the manifest. parts: the keys, without values."""
    written = parts[_MANIFEST].create_revision
    for number in range(manifest.chunks):
        chunk = parts.get(f"{number:06d}")
        if chunk is None or chunk.mod_revision > written:
            raise Garbage(f"snapshot {name}: chunk {number} was deleted or changed")


class Snapshots:
    """Reads, writes, verifies and deletes snapshots in etcd."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self._etcd, self._keys = etcd, keys
        self.verified: set[str] = set()
        """Names of the snapshots that this process has read back and whose hash it has checked."""
        self._named: dict[str, str] = {}
        """Full and operator's names of the named snapshots that `whole` found last."""
        self._deleted: set[str] = set()
        """Full names of the named snapshots that an operator has deleted through this process."""
        self._lost_named: list[str] = []
        self.written_bytes = 0
        """Size of the last snapshot that this process wrote."""

    async def manifests(self) -> dict[str, Manifest]:
        """The manifests of all complete snapshots by name, newest first. Unreadable ones are logged and skipped."""
        _, complete = await self._names()
        return await self._read_manifests(complete)

    async def _read_manifests(self, complete: Iterable[str]) -> dict[str, Manifest]:
        manifests = {}
        for name in sorted(complete, reverse=True):
            key = self._keys.snapshot(name) + _MANIFEST
            kv = await self._etcd.get(key)
            if kv is None:
                continue
            try:
                manifests[name] = decode(Manifest, kv.value, key)
            except Garbage as error:
                log.warning("skipping a snapshot: %s", error)
        return manifests

    async def indexes(self, revision: int) -> list[int]:
        """The indexes of all complete snapshots as of `revision`, from their names."""
        _, complete = await self._names(revision)
        texts = [name.partition("-")[0] for name in complete]
        return [int(text) for text in texts if text.isascii() and text.isdigit()]

    async def whole(self) -> AsyncGenerator[tuple[str, Manifest], None]:
        """Name and manifest of each snapshot that no other program has touched, newest first.

        A snapshot that this process has not verified yet is read. For the others the names and revisions of the keys
        suffice: a chunk is written once, before the manifest.
        """
        found = await self._etcd.range(self._keys.snapshots, keys_only=True, timeout_s=10.0)
        parts: dict[str, dict[str, KV]] = {}
        for kv in found.kvs:
            name, _, part = kv.key.removeprefix(self._keys.snapshots).partition("/")
            parts.setdefault(name, {})[part] = kv
        complete = [name for name, kvs in parts.items() if _MANIFEST in kvs]
        named: dict[str, str] = {}
        for name, manifest in (await self._read_manifests(complete)).items():
            try:
                _check_untouched(name, manifest, parts[name])
                if name not in self.verified:
                    await self.verify(name, manifest)
            except Garbage as error:
                self.verified.discard(name)
                log.warning("ignoring a damaged snapshot: %s", error)
                continue
            if manifest.name is not None:
                named[name] = manifest.name
            yield name, manifest
        self._note_named(named)

    def forget_named(self) -> None:
        """Forget which named snapshots exist: those of a former term may have been deleted since."""
        self._named.clear()
        self._lost_named.clear()

    def note_deletion(self, name: str) -> None:
        """Note that an operator deletes the named snapshot with this full name."""
        self._named.pop(name, None)
        self._deleted.add(name)

    def note_kept(self, name: str) -> None:
        """Note that the deletion of this snapshot was refused: if it is missing later, no operator has deleted it."""
        self._deleted.discard(name)

    def take_lost_named(self) -> list[str]:
        """The names of named snapshots that `whole` has found once and then no more; each is returned once."""
        lost, self._lost_named = self._lost_named, []
        return lost

    def _note_named(self, named: dict[str, str]) -> None:
        """Compare with the named snapshots of before. An operator's deletion may come after the listing."""
        self._lost_named += [operators for name, operators in self._named.items() if name not in named]
        self._named = {name: operators for name, operators in named.items() if name not in self._deleted}

    async def lookup(self, name: str) -> tuple[str, Manifest] | None:
        """Full name and manifest of the snapshot with this full name or operator's name; None if there is none."""
        for full, manifest in (await self.manifests()).items():
            if name in (full, manifest.name):
                return full, manifest
        return None

    async def find(self, name: str) -> tuple[str, Manifest]:
        """Like `lookup`, but NotFound if there is none."""
        found = await self.lookup(name)
        if found is None:
            raise NotFound(f"there is no snapshot {name!r} (nodectl snapshot list)")
        return found

    async def verify(self, name: str, manifest: Manifest) -> list[bytes]:
        """Read the chunks and check their hash; return them. Garbage if the snapshot is incomplete or altered."""
        hasher = hashlib.sha256()
        chunks: list[bytes] = []
        for number in range(manifest.chunks):
            kv = await self._etcd.get(self._chunk(name, number))
            if kv is None:
                raise Garbage(f"snapshot {name} lacks chunk {number}")
            hasher.update(kv.value)
            chunks.append(kv.value)
        if hasher.hexdigest() != manifest.sha256:
            raise Garbage(f"snapshot {name} is damaged: its SHA-256 is not the manifest's {manifest.sha256[:16]}…")
        self.verified.add(name)
        return chunks

    async def read(self, name: str, manifest: Manifest) -> Image:
        """The image of this snapshot, verified. Garbage if it is incomplete, altered or malformed."""
        state = State()
        for raw in await self.verify(name, manifest):
            load_chunk(state, raw, name)
            await asyncio.sleep(0)  # a snapshot may be large; the event loop must keep leases and heartbeats going
        return Image.of(state)

    async def read_newest(self, at_least: int = 0, *, with_ids: bool = False) -> Image | None:
        """The image of the newest readable snapshot with an index of `at_least` or more; None if there is none.

        with_ids: if True, snapshots without command ids are skipped.
        """
        for name, manifest in (await self.manifests()).items():
            if manifest.index < at_least:
                return None
            if with_ids and not manifest.has_ids:
                continue
            try:
                return await self.read(name, manifest)
            except Garbage as error:
                log.warning("skipping a snapshot: %s", error)
        return None

    async def read_documents(self, name: str) -> dict[str, Document]:
        """The documents of a snapshot that an entry restores. Garbage if it does not exist or is damaged."""
        key = self._keys.snapshot(name) + _MANIFEST
        kv = await self._etcd.get(key)
        if kv is None:
            raise Garbage(f"the journal restores snapshot {name}, which does not exist")
        image = await self.read(name, decode(Manifest, kv.value, key))
        return {path: doc.value for path, doc in image.documents.items()}

    async def write(self, fence: Fence, image: Image, now: float, name: str | None = None) -> str:
        """Write an image and verify it; return the snapshot's full name. LeadershipLost if the term is over.

        now: the time of the snapshot, in seconds since the Unix epoch. name: the operator's name for it.
        """
        nonce = secrets.token_hex(4)
        snapshot = self._keys.snapshot_name(image.index, nonce)
        hasher = hashlib.sha256()
        number = size = 0
        for number, chunk in enumerate(encode_image(image), start=1):
            hasher.update(chunk)
            size += len(chunk)
            await self._fenced(fence, op_put(self._chunk(snapshot, number - 1), chunk))
            await asyncio.sleep(0)
        manifest = Manifest(
            index=image.index, nonce=nonce, chunks=number, size_bytes=size, sha256=hasher.hexdigest(), time=now,
            epoch=fence.term.epoch, documents=len(image.documents), name=name, has_ids=image.has_ids,
        )  # fmt: skip
        await self._put_manifest(fence, snapshot, manifest)
        await self.verify(snapshot, manifest)
        self.written_bytes = size
        return snapshot

    async def delete(self, fence: Fence, name: str, is_needed: Callable[[str], bool]) -> bool:
        """Delete a snapshot; return False if it is needed and was kept.

        A commit that restores the snapshot rewrites its manifest (`restore_guard`). The deletion compares the revision
        of the manifest that was read before `is_needed` was called. So the deletion fails if such a commit comes after
        that read, no matter how late the deletion reaches etcd.
        """
        found = await self._etcd.get(self._keys.snapshot(name) + _MANIFEST)
        if is_needed(name):
            return False
        return await self._delete_if(fence, name, 0 if found is None else found.mod_revision)

    async def delete_fragment(self, fence: Fence, name: str) -> bool:
        """Delete an incomplete snapshot; return False if its manifest has landed meanwhile, so that it is complete.

        Afterwards the snapshot cannot become complete any more: see `_put_manifest`.
        """
        return await self._delete_if(fence, name, 0)

    async def _delete_if(self, fence: Fence, name: str, manifest_revision: int) -> bool:
        """Delete a snapshot if its manifest has this mod_revision (0: is absent); return False if it has another one.

        LeadershipLost if the term is over.
        """
        prefix, manifest = self._keys.snapshot(name), self._keys.snapshot(name) + _MANIFEST
        result = await self._etcd.txn(
            [*fence.compares(self._keys), cmp_mod(manifest, manifest_revision)],
            [op_delete(prefix, end=prefix_end(prefix))],
            [op_get(manifest), op_get(self._keys.leader), op_get(self._keys.epoch)],
            timeout_s=10.0,
            repeatable=True,
        )
        if not result.succeeded:
            current, leader, epoch = (result.range(position).first for position in range(3))
            if not fence.holds(leader, epoch):
                raise LeadershipLost(f"term {fence.term} is over")
            if current is not None:
                return False
            # The manifest does not exist: an earlier attempt of this transaction has deleted the snapshot.
        self.verified.discard(name)
        return True

    async def restore_guard(self, name: str) -> tuple[Compare, Op]:
        """The compare and the write by which a commit that restores this snapshot prevents its deletion.

        NotFound if the snapshot was deleted meanwhile.
        """
        key = self._keys.snapshot(name) + _MANIFEST
        found = await self._etcd.get(key)
        if found is None:
            raise NotFound(f"snapshot {name} has just been deleted")
        return cmp_mod(key, found.mod_revision), op_put(key, found.value)

    async def fragments(self) -> list[str]:
        """Names with chunks but without a manifest: snapshots whose write was not completed."""
        names, complete = await self._names()
        return sorted(names - complete)

    async def _names(self, revision: int = 0) -> tuple[set[str], set[str]]:
        """The names of all snapshots at one revision (0: the current one), and of those that have a manifest, readable
        or not."""
        found = await self._etcd.range(self._keys.snapshots, keys_only=True, revision=revision, timeout_s=10.0)
        parts = [kv.key.removeprefix(self._keys.snapshots).partition("/") for kv in found.kvs]
        return {name for name, _, _ in parts}, {name for name, _, rest in parts if rest == _MANIFEST}

    async def unreadable(self, readable: Collection[str]) -> list[str]:
        """Names of the snapshots whose manifest exists, but is not among the `readable` ones."""
        _, complete = await self._names()
        return sorted(complete - set(readable))

    async def _fenced(self, fence: Fence, op: Op) -> None:
        # Repeatable: a late copy writes the same bytes under a name that only this attempt uses. At worst it leaves a
        # fragment, which is deleted later.
        result = await self._etcd.txn(fence.compares(self._keys), [op], timeout_s=10.0, repeatable=True)
        if not result.succeeded:
            raise LeadershipLost(f"term {fence.term} is over")

    async def _put_manifest(self, fence: Fence, snapshot: str, manifest: Manifest) -> None:
        """Complete a snapshot. Garbage if its chunks were deleted meanwhile.

        Several copies of this transaction may land, all with the same bytes, but none after the chunks were deleted.
        """
        chunk = await self._etcd.get(self._chunk(snapshot, 0))
        if chunk is None:
            raise Garbage(f"snapshot {snapshot} was deleted while it was written")
        result = await self._etcd.txn(
            [*fence.compares(self._keys), cmp_create(chunk.key, chunk.create_revision)],
            [op_put(self._keys.snapshot(snapshot) + _MANIFEST, manifest.encode())],
            [op_get(self._keys.leader), op_get(self._keys.epoch)],
            timeout_s=10.0,
            repeatable=True,
        )
        if not result.succeeded:
            if not fence.holds(*(result.range(position).first for position in range(2))):
                raise LeadershipLost(f"term {fence.term} is over")
            raise Garbage(f"snapshot {snapshot} was deleted while it was written")

    def _chunk(self, name: str, number: int) -> str:
        return f"{self._keys.snapshot(name)}{number:06d}"
