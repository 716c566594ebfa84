"""The image of a state, and its form in the chunks of a snapshot. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from msgspec import Raw, structs

from masterd.state_machine.remembered import RememberedResult
from masterd.state_machine.state import AdoptedConfig, State, VersionedDocument, document_size
from nodestore.errors import Garbage
from nodestore.schema.models import Action, ConfigRecord, Inventory, SpecMark
from nodestore.schema.records import MarkStruct
from nodestore.support.jsonio import dumps, encoded_plain, loads

CHUNK_BYTES = 256 << 10
_IDS_TOGETHER = 16
"""So many ids and results, of at most 4 KiB each, are encoded at once."""


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

    A chunk has about `chunk_bytes` bytes at most, unless it holds one item, or some ids, that are larger.
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
    ids = ((name, (known.index, known.time, Raw(known.encoded or b"null"))) for name, known in image.ids.items())
    # Parts of their own, not in `ids`: old versions read `ids` in exactly this form, and skip parts they do not know.
    digests = ((name, known.digest.hex()) for name, known in image.ids.items() if known.digest is not None)
    by_index = ((name, 1) for name, known in image.ids.items() if known.by_index)
    specs = ((node, (mark.generation, mark.hash)) for node, mark in image.specs.items())
    documents = ((path, (doc.index, Raw(dumps(doc.value)))) for path, doc in image.documents.items())
    actions = (
        (node, Raw(dumps([action.model_dump(mode="json") for action in todo]))) for node, todo in image.actions.items()
    )
    yield from _chunks("specs", _encoded(specs), chunk_bytes)
    yield from _chunks("documents", _encoded(documents), chunk_bytes)
    yield from _chunks("ids", _encoded(ids, _IDS_TOGETHER), chunk_bytes)
    yield from _chunks("digests", _encoded(digests, _IDS_TOGETHER), chunk_bytes)
    yield from _chunks("by_index", _encoded(by_index, _IDS_TOGETHER), chunk_bytes)
    yield from _chunks("actions", _encoded(actions), chunk_bytes)


def _encoded(items: Iterable[tuple[str, Any]], together: int = 1) -> Iterator[bytes]:
    """The members of a JSON object, `together` of them in each piece: many at once take a third of the time."""
    rest = iter(items)
    while group := dict(islice(rest, together)):
        yield encoded_plain(group)[1:-1]


def _chunks(part: str, pieces: Iterable[bytes], chunk_bytes: int) -> Iterator[bytes]:
    """The chunks of one part. pieces: the members of its object `items`."""
    opening = dumps({"v": 1, "part": part})[:-1] + b',"items":{'
    taken: list[bytes] = []
    size = 0
    for piece in pieces:
        if taken and size + len(piece) > chunk_bytes:
            yield opening + b",".join(taken) + b"}}"
            taken, size = [], 0
        taken.append(piece)
        size += len(piece) + 1
    if taken:
        yield opening + b",".join(taken) + b"}}"


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
