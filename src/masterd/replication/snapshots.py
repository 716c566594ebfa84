"""Snapshots: the whole state with its ids, in chunks under `snapshots/<index>-<nonce>/`, the manifest last.

Written fenced, so a deposed leader's never lands; a snapshot without a manifest is not a snapshot. One is trusted
only after it was read back and its hash checked: truncation asks for two such.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from masterd.state_machine.state import AdoptedConfig, RememberedResult, State, VersionedDocument
from nodestore.cluster.election import Fence
from nodestore.errors import Garbage, LeadershipLost, NotFound
from nodestore.etcd.session import Compare, Etcd, Op, cmp_mod, op_delete, op_get, op_put
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import Action, ConfigRecord, Inventory, Manifest, SpecMark, decode
from nodestore.support.jsonio import Document, dumps, loads

log = logging.getLogger(__name__)

CHUNK_BYTES = 256 << 10
_MANIFEST = "manifest"


@dataclass(frozen=True, slots=True)
class Image:
    """A state at one index, safe to encode while the state goes on: documents are never changed in place."""

    index: int
    time: float
    floor: int
    documents: dict[str, VersionedDocument]
    specs: dict[str, SpecMark]
    ids: dict[str, RememberedResult]
    restores: dict[int, str]
    adopted: AdoptedConfig | None
    actions: dict[str, tuple[Action, ...]]

    @classmethod
    def of(cls, state: State) -> Image:
        return cls(
            state.index, state.time, state.floor, dict(state.documents), dict(state.specs), dict(state.ids),
            dict(state.restores), state.adopted, dict(state.actions),
        )  # fmt: skip

    def to_state(self) -> State:
        return State(
            index=self.index, time=self.time, documents=self.documents, specs=self.specs, adopted=self.adopted,
            ids=self.ids, floor=self.floor, restores=self.restores, actions=self.actions,
        )  # fmt: skip


def encode_image(image: Image, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The image as JSON chunks, each readable by itself; none much above `chunk_bytes`, bar a larger document."""
    adopted = image.adopted
    yield dumps(
        {
            "v": 1, "part": "state", "index": image.index, "time": image.time, "floor": image.floor,
            "restores": {str(index): name for index, name in image.restores.items()},
            "config": None if adopted is None else adopted.record.model_dump(mode="json"),
            "config_revision": adopted.revision if adopted else 0,
            "config_index": adopted.index if adopted else 0,
        }
    )  # fmt: skip
    # Each made when its chunk is: an hour's ids are many, and whoever writes chunks has other things to do in between.
    specs = ((node, [mark.generation, mark.hash]) for node, mark in image.specs.items())
    documents = ((path, [doc.index, doc.value]) for path, doc in image.documents.items())
    ids = ((name, [known.index, known.time, known.result]) for name, known in image.ids.items())
    actions = ((node, [action.model_dump(mode="json") for action in todo]) for node, todo in image.actions.items())
    yield from _parts("specs", specs, chunk_bytes)
    yield from _parts("documents", documents, chunk_bytes)
    yield from _parts("ids", ids, chunk_bytes)
    yield from _parts("actions", actions, chunk_bytes)


def _parts(part: str, items: Iterable[tuple[str, Any]], chunk_bytes: int) -> Iterator[bytes]:
    opening = dumps({"v": 1, "part": part})[:-1] + b',"items":{'
    pieces: list[bytes] = []
    size = 0
    for key, value in items:
        piece = dumps(key) + b":" + dumps(value)
        if pieces and size + len(piece) > chunk_bytes:
            yield opening + b",".join(pieces) + b"}}"
            pieces, size = [], 0
        pieces.append(piece)
        size += len(piece) + 1
    if pieces:
        yield opening + b",".join(pieces) + b"}}"


def load_chunk(state: State, raw: bytes, where: str) -> None:
    """Take up what one chunk of an image holds. Garbage when that is none."""
    try:
        _fill(state, loads(raw, where))
    except (KeyError, TypeError, ValueError) as error:
        raise Garbage(f"snapshot {where} is malformed: {error!r}") from None


def _fill(state: State, data: dict[str, Any]) -> None:
    match data["part"]:
        case "state":
            state.index, state.time, state.floor = data["index"], data["time"], data["floor"]
            state.restores = {int(index): name for index, name in data["restores"].items()}
            if data["config"] is not None:
                record = ConfigRecord.model_validate(data["config"])
                inventory = Inventory.without_name_check(record.inventory)
                state.adopted = AdoptedConfig(record, data["config_revision"], data["config_index"], inventory)
        case "specs":
            for node, (generation, digest) in data["items"].items():
                state.specs[node] = SpecMark(generation=generation, hash=digest)
        case "documents":
            for path, (index, value) in data["items"].items():
                state.documents[path] = VersionedDocument(index, value)
        case "ids":
            for name, (index, time, result) in data["items"].items():
                state.ids[name] = RememberedResult(index, time, result)
        case "actions":
            for node, pending in data["items"].items():
                state.actions[node] = tuple(Action.model_validate(action) for action in pending)


class Snapshots:
    """Reading and writing snapshots in etcd."""

    def __init__(self, etcd: Etcd, keys: Keys) -> None:
        self._etcd, self._keys = etcd, keys
        self.verified: set[str] = set()
        """Names that this process has read back and hash-checked."""
        self.written_bytes = 0
        """Size of the last one that this process wrote."""

    async def manifests(self) -> dict[str, Manifest]:
        """All complete snapshots by name, newest first. Unreadable manifests are reported and passed over."""
        found = await self._etcd.range(self._keys.snapshots, keys_only=True, timeout_s=10.0)
        names = [kv.key.removeprefix(self._keys.snapshots).partition("/") for kv in found.kvs]
        manifests = {}
        for name in sorted({name for name, _, rest in names if rest == _MANIFEST}, reverse=True):
            key = self._keys.snapshot(name) + _MANIFEST
            kv = await self._etcd.get(key)
            if kv is None:
                continue
            try:
                manifests[name] = decode(Manifest, kv.value, key)
            except Garbage as error:
                log.warning("passing over a snapshot: %s", error)
        return manifests

    async def lookup(self, name: str) -> tuple[str, Manifest] | None:
        """The full name and manifest of a snapshot by either of its names: the full one, or the one it was given."""
        for full, manifest in (await self.manifests()).items():
            if name in (full, manifest.name):
                return full, manifest
        return None

    async def find(self, name: str) -> tuple[str, Manifest]:
        """The same. NotFound if there is none."""
        found = await self.lookup(name)
        if found is None:
            raise NotFound(f"there is no snapshot {name!r} (nodectl snapshot list)")
        return found

    async def verify(self, name: str, manifest: Manifest) -> list[bytes]:
        """Read its chunks back and check their hash. Garbage when it is incomplete or altered."""
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
        """The image under this name, its hash checked. Garbage when it is incomplete or altered."""
        state = State()
        for raw in await self.verify(name, manifest):
            load_chunk(state, raw, name)
            await asyncio.sleep(0)  # it may be long: leases are kept and heartbeats sent meanwhile
        return Image.of(state)

    async def read_newest(self, at_least: int = 0) -> Image | None:
        """The newest readable image, if it is beyond index `at_least`."""
        for name, manifest in (await self.manifests()).items():
            if manifest.index < at_least:
                return None
            try:
                return await self.read(name, manifest)
            except Garbage as error:
                log.warning("passing over a snapshot: %s", error)
        return None

    async def read_documents(self, name: str) -> dict[str, Document]:
        """The documents of one snapshot, for an entry that restores it."""
        key = self._keys.snapshot(name) + _MANIFEST
        kv = await self._etcd.get(key)
        if kv is None:
            raise Garbage(f"the journal names snapshot {name}, which is not there")
        image = await self.read(name, decode(Manifest, kv.value, key))
        return {path: doc.value for path, doc in image.documents.items()}

    async def write(self, fence: Fence, image: Image, now: float, name: str | None = None) -> str:
        """Write an image and read it back. LeadershipLost when the term ended meanwhile."""
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
            epoch=fence.term.epoch, documents=len(image.documents), name=name,
        )  # fmt: skip
        await self._fenced(fence, op_put(self._keys.snapshot(snapshot) + _MANIFEST, manifest.encode()))
        await self.verify(snapshot, manifest)
        self.written_bytes = size
        return snapshot

    async def delete(self, fence: Fence, name: str, is_needed: Callable[[str], bool]) -> bool:
        """Delete a snapshot, or what is left of one, unless it is needed; False then.

        An entry that restores it writes its manifest anew (`restore_guard`). So a deletion that was decided on before
        that,
        however late it lands, does not: it compares the manifest that it saw. `is_needed` is asked in between.
        """
        prefix, manifest = self._keys.snapshot(name), self._keys.snapshot(name) + _MANIFEST
        found = await self._etcd.get(manifest)
        if is_needed(name):
            return False
        result = await self._etcd.txn(
            [*fence.compares(self._keys), cmp_mod(manifest, 0 if found is None else found.mod_revision)],
            [op_delete(prefix, end=prefix_end(prefix))],
            [op_get(manifest), op_get(self._keys.leader), op_get(self._keys.epoch)],
            timeout_s=10.0,
            repeatable=True,
        )
        if not result.succeeded:
            now, leader, epoch = (result.range(position).first for position in range(3))
            if not fence.holds(leader, epoch):
                raise LeadershipLost(f"term {fence.term} is over")
            if now is not None:
                return False
            # an earlier copy has deleted it
        self.verified.discard(name)
        return True

    async def restore_guard(self, name: str) -> tuple[Compare, Op]:
        """What the commit of an entry that restores this snapshot must compare and write, so that it stays."""
        key = self._keys.snapshot(name) + _MANIFEST
        found = await self._etcd.get(key)
        if found is None:
            raise NotFound(f"snapshot {name} has just been deleted")
        return cmp_mod(key, found.mod_revision), op_put(key, found.value)

    async def fragments(self, complete: set[str]) -> list[str]:
        """Names that have chunks but no manifest: what a dead leader left half written."""
        found = await self._etcd.range(self._keys.snapshots, keys_only=True, timeout_s=10.0)
        names = {kv.key.removeprefix(self._keys.snapshots).partition("/")[0] for kv in found.kvs}
        return sorted(names - complete)

    async def _fenced(self, fence: Fence, *ops: Op) -> None:
        # A late copy puts the same bytes under a name that is this attempt's own: a fragment at worst, cleared away.
        result = await self._etcd.txn(fence.compares(self._keys), ops, timeout_s=10.0, repeatable=True)
        if not result.succeeded:
            raise LeadershipLost(f"term {fence.term} is over")

    def _chunk(self, name: str, number: int) -> str:
        return f"{self._keys.snapshot(name)}{number:06d}"
