"""Records the events of a watch of the whole store as a history, in the format of `history_checks`.

Keys are recorded without the cluster's prefix. Values that are only compared are recorded as hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nodestore.errors import Garbage
from nodestore.etcd.session import KV
from nodestore.schema.keys import Keys
from nodestore.schema.models import Status, TermRecord, decode
from nodestore.support.jsonio import digest, loads

OWN = ("head", "applied", "journal/", "state/", "desired/", "actions/", "answers/", "snapshots/", "terms/")
"""The keys that only leaders write and delete."""
MANIFEST = "/manifest"
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "head": ("index", "nonce"),
    "applied": ("index", "base", "through"),
    "state/": ("index",),
    "desired/": ("epoch", "term", "generation"),
    "actions/": ("epoch", "term"),
    "answers/": ("term",),
    "terms/": ("nonce",),
}
_HASHED = {"state/": "document", "desired/": "spec"}


def facts(key: str, value: bytes) -> dict[str, Any]:
    """The recorded fields of a leader's put of this key, which is without the cluster's prefix."""
    kind = next((kind for kind in OWN if key.startswith(kind)), "")
    if kind == "snapshots/":
        return {"index": loads(value)["index"]} if key.endswith(MANIFEST) else {}
    try:
        document = loads(value)
        fields = {name: document.get(name) for name in _FIELDS[kind]}
        if kind in _HASHED:
            fields["hash"] = digest(document[_HASHED[kind]])
    except (Garbage, KeyError, AttributeError):
        return {"garbage": True}
    return fields


class WatchRecorder:
    """Turns puts and deletions into events. seen: called like `history.Recorder.seen`."""

    def __init__(self, seen: Callable[..., None], keys: Keys) -> None:
        self._seen, self._keys = seen, keys
        self._won = 0

    def put(self, kv: KV) -> None:
        """Record a put. Call it in the order of revisions."""
        keys, key = self._keys, kv.key
        name = key.removeprefix(keys.prefix)
        if key == keys.leader:
            self._won = kv.mod_revision
        elif key.startswith(keys.terms) and kv.mod_revision == self._won:
            term = decode(TermRecord, kv.value, key)
            self._seen("watch", "term", epoch=term.epoch, revision=kv.mod_revision, nonce=term.nonce, id=term.id)
        elif key.startswith(keys.status):
            self._obeyed(decode(Status, kv.value, key))
        elif key.startswith(keys.journal):
            self._seen(
                "watch", "entry", key=name, value=kv.value.decode(), create_revision=kv.create_revision,
                mod_revision=kv.mod_revision,
            )  # fmt: skip
        elif name.startswith(OWN):
            self._seen("watch", "wrote", key=name, revision=kv.mod_revision, **facts(name, kv.value))

    def deleted(self, key: str, revision: int) -> None:
        """Record a deletion. Call it in the order of revisions."""
        name = key.removeprefix(self._keys.prefix)
        if key == self._keys.leader:
            self._seen("watch", "vacant", revision=revision)
        elif name.startswith(OWN):
            self._seen("watch", "deleted", key=name, revision=revision)

    def _obeyed(self, status: Status) -> None:
        if status.observed_generation:
            self._seen(
                status.node, "obeyed", epoch=status.epoch, term=status.term, generation=status.observed_generation,
                nonce=status.nonce,
            )  # fmt: skip
