"""The image of a state, and its form in the chunks of a snapshot. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from msgspec import structs

from masterd.state_machine.remembered import RememberedResult
from masterd.state_machine.state import AdoptedConfig, State, VersionedDocument, document_size
from nodestore.errors import Garbage
from nodestore.schema.models import Action, ConfigRecord, Inventory, SpecMark
from nodestore.schema.records import MarkStruct
from nodestore.support.jsonio import dumps, encoded_plain, loads

CHUNK_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Image:
    """A copy of the state at one index. Stays valid while the state changes: documents are never changed in place."""

    index: int
    time: float
    floor: int
    documents: dict[str, VersionedDocument]
    specs: dict[str, MarkStruct]
    ids: dict[str, RememberedResult]
    restores: dict[int, str]
    adopted: AdoptedConfig | None
    actions: dict[str, tuple[Action, ...]]
    application: str | None = None
    has_ids: bool = True

    @classmethod
    def of(cls, state: State) -> Image:
        return cls(
            index=state.index, time=state.time, floor=state.floor, documents=dict(state.documents),
            specs=dict(state.specs), ids=dict(state.ids), restores=dict(state.restores), adopted=state.adopted,
            actions=dict(state.actions), application=state.application,
        )  # fmt: skip

    def without_ids(self) -> Image:
        """This image without command ids: all of them count as forgotten."""
        return replace(self, ids={}, floor=self.index, has_ids=False)

    @property
    def documents_bytes(self) -> int:
        """Size of its documents in a snapshot, at most."""
        return sum(document.size for document in self.documents.values())

    def to_state(self) -> State:
        return State(
            index=self.index, time=self.time, documents=self.documents, specs=self.specs, adopted=self.adopted,
            ids=self.ids, ids_bytes=sum(known.size_under(name) for name, known in self.ids.items()), floor=self.floor,
            documents_bytes=self.documents_bytes, restores=self.restores, actions=self.actions,
            application=self.application,
        )  # fmt: skip


def encode_image(image: Image, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The image as JSON chunks, each of which can be decoded alone.

    A chunk has about `chunk_bytes` bytes at most, unless it holds one item that is larger.
    """
    adopted = image.adopted
    yield dumps(
        {
            "v": 1, "part": "state", "index": image.index, "time": image.time, "floor": image.floor,
            "restores": {str(index): name for index, name in image.restores.items()},
            "config": None if adopted is None else adopted.record.model_dump(mode="json"),
            "config_revision": adopted.revision if adopted else 0,
            "config_index": adopted.index if adopted else 0,
            "application": image.application,
        }
    )  # fmt: skip
    # Generators, so that each chunk is encoded when it is requested: the caller yields to the event loop in between.
    specs = ((node, dumps([mark.generation, mark.hash])) for node, mark in image.specs.items())
    documents = ((path, dumps([doc.index, doc.value])) for path, doc in image.documents.items())
    ids = ((name, _encode_remembered(known)) for name, known in image.ids.items())
    # Parts of their own, not in `ids`: old versions read `ids` in exactly this form, and skip parts they do not know.
    digests = ((name, dumps(known.digest.hex())) for name, known in image.ids.items() if known.digest is not None)
    by_index = ((name, b"1") for name, known in image.ids.items() if known.by_index)
    actions = (
        (node, dumps([action.model_dump(mode="json") for action in todo])) for node, todo in image.actions.items()
    )
    yield from _parts("specs", specs, chunk_bytes)
    yield from _parts("documents", documents, chunk_bytes)
    yield from _parts("ids", ids, chunk_bytes)
    yield from _parts("digests", digests, chunk_bytes)
    yield from _parts("by_index", by_index, chunk_bytes)
    yield from _parts("actions", actions, chunk_bytes)


def _encode_remembered(known: RememberedResult) -> bytes:
    return b"[%d,%b,%b]" % (known.index, dumps(known.time), known.encoded or b"null")


def _parts(part: str, items: Iterable[tuple[str, bytes]], chunk_bytes: int) -> Iterator[bytes]:
    """The chunks of one part. items: their values are JSON."""
    opening = dumps({"v": 1, "part": part})[:-1] + b',"items":{'
    pieces: list[bytes] = []
    size = 0
    for key, value in items:
        piece = dumps(key) + b":" + value
        if pieces and size + len(piece) > chunk_bytes:
            yield opening + b",".join(pieces) + b"}}"
            pieces, size = [], 0
        pieces.append(piece)
        size += len(piece) + 1
    if pieces:
        yield opening + b",".join(pieces) + b"}}"


def load_chunk(state: State, raw: bytes, where: str) -> None:
    """Add the content of one chunk to `state`. Garbage if it is malformed."""
    try:
        _fill(state, loads(raw, where))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Garbage(f"snapshot {where} is malformed: {error!r}") from None


def _fill(state: State, data: dict[str, Any]) -> None:
    match data["part"]:
        case "state":
            state.index, state.time, state.floor = data["index"], data["time"], data["floor"]
            state.restores = {int(index): name for index, name in data["restores"].items()}
            state.application = data.get("application")  # absent in snapshots of older releases
            if data["config"] is not None:
                record = ConfigRecord.model_validate(data["config"])
                inventory = Inventory.without_name_check(record.inventory)
                state.adopted = AdoptedConfig(record, data["config_revision"], data["config_index"], inventory)
        case "specs":
            for node, (generation, digest) in data["items"].items():
                state.specs[node] = MarkStruct.of(SpecMark(generation=generation, hash=digest))
        case "documents":
            for path, (index, value) in data["items"].items():
                state.documents[path] = VersionedDocument(index, value, document_size(path, value))
                state.documents_bytes += state.documents[path].size
        case "ids":
            for name, (index, time, result) in data["items"].items():
                state.remember(name, RememberedResult(index, time, encoded_plain(result)))
        case "digests":
            for name, digest in data["items"].items():
                state.ids[name] = structs.replace(state.ids[name], digest=bytes.fromhex(digest))
        case "by_index":
            for name in data["items"]:
                known, by_index = state.ids[name], structs.replace(state.ids[name], encoded=None)
                state.ids_bytes -= known.size_under(name) - by_index.size_under(name)
                state.ids[name] = by_index
        case "actions":
            for node, pending in data["items"].items():
                state.actions[node] = tuple(Action.model_validate(action) for action in pending)
