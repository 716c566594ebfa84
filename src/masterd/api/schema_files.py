"""Writes the published schemas to files: `python -m masterd.api.schema_files docs` (`make schemas`).

The files are the JSON Schemas of all values in etcd, the OpenAPI document of the built-in application, and the tables
in docs/schemas.md and docs/security.md. The schemas describe what a reader must accept: fields with a default may be
absent, and unknown fields may be present.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from masterd.api import openapi
from masterd.api.access import rights_page
from masterd.application.scenes import BuiltinApp
from nodestore.schema import models
from nodestore.schema.models import MODELS, SCHEMA_VERSION, Stored
from nodestore.schema.store_rights import rights_table

HINT = "run make schemas"
PAGE, RIGHTS_PAGE = "schemas.md", "security.md"
_FOLDER = "schemas"
_BEGIN, _END = "<!-- written by make schemas -->", "<!-- end -->"
_BEGIN_ETCD = "<!-- rights in etcd, written by make schemas -->"

KEYS: Mapping[str, type[Stored]] = {
    "epoch": models.Epoch,
    "leader": models.LeaderRecord,
    "terms/<nonce>": models.TermRecord,
    "candidates/<master>": models.Candidate,
    "paused": models.Paused,
    "application": models.ApplicationOrder,
    "challenges/<master>": models.Challenge,
    "answers/<master>": models.Answer,
    "head": models.Head,
    "journal/<last index>": models.Entry,
    "applied": models.Applied,
    "snapshots/<index>-<nonce>/manifest": models.Manifest,
    "state/<path>": models.DocumentView,
    "desired/<node>": models.Desired,
    "actions/<node>": models.Actions,
    "config/current": models.ConfigRecord,
    "config/history/<version>": models.ConfigRecord,
    "status/<node>": models.Status,
    "alive/<node>": models.Alive,
    "waiting/<node>/<nonce>": models.Waiting,
    "acted/<node>": models.Acted,
    "access/control": models.AccessControl,
    "access/grants/<id>": models.Grant,
    "access/joins/<id>": models.JoinToken,
    "access/uses/<id>": models.CredentialUse,
    "hosts/<host>": models.HostRecord,
    "hosts-actual/<host>": models.HostActual,
    "access/sessions/<id>": models.BrowserSession,
    "access/codes/<id>": models.MoveCode,
}
"""By key under /nodectl/<cluster>/: the model of its value."""


def files() -> dict[str, str]:
    """By path below docs/: the text of every generated file. It depends on nothing but the models."""
    texts = {f"{_FOLDER}/{model.__name__}.json": _text(schema_of(model)) for model in MODELS}
    texts[f"{_FOLDER}/openapi.json"] = _text(openapi.document(BuiltinApp()))
    return texts


def schema_of(model: type[Stored]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the values that a key of this model may hold."""
    schema = model.model_json_schema(mode="validation")
    schema["properties"]["v"]["maximum"] = SCHEMA_VERSION  # a reader must refuse a newer version, as masterd does
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:nodectl:schema:{SCHEMA_VERSION}:{model.__name__}",
        "title": schema.pop("title"),
        "description": schema.pop("description"),
    }
    definitions = schema.pop("$defs", None)
    return {**head, **schema, **({"$defs": definitions} if definitions else {})}


def key_table() -> str:
    """The Markdown table of keys and their models."""
    rows = [f"| `{key}` | [{model.__name__}](schemas/{model.__name__}.json) |" for key, model in KEYS.items()]
    rows.append("| `inventory` of `config/...` | [Inventory](schemas/Inventory.json) |")
    return "\n".join(["| key | value |", "| --- | --- |", *rows])


def page(text: str, table: str | None = None, marker: str = _BEGIN) -> str:
    """The page with an up-to-date table: by default that of the keys. Raises ValueError if the page lacks the markers
    around the table. marker: the one before it."""
    before, begin, rest = text.partition(marker)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page lacks {marker} or {_END}")
    return f"{before}{begin}\n\n{key_table() if table is None else table}\n\n{end}{after}"


def _expected(docs: Path) -> dict[Path, str]:
    """By path: the text of every generated file, and of the pages with generated tables."""
    return {
        **{docs / name: text for name, text in files().items()},
        docs / PAGE: page(_read(docs / PAGE)),
        docs / RIGHTS_PAGE: page(page(_read(docs / RIGHTS_PAGE), rights_page.table()), rights_table(), _BEGIN_ETCD),
    }


def drift(docs: Path) -> list[str]:
    """One line for each file that is missing, outdated or surplus; empty if all are up to date."""
    expected = _expected(docs)
    existing = {docs / PAGE, docs / RIGHTS_PAGE, *(docs / _FOLDER).glob("*.json")}
    stale = sorted(path for path in existing | expected.keys() if expected.get(path) != _read(path))
    return [f"{path.relative_to(docs.parent)} differs from the models: {HINT}" for path in stale]


def write(docs: Path) -> list[Path]:
    """Write the files that are missing or outdated and delete surplus ones. Returns the paths that changed."""
    folder = docs / _FOLDER
    folder.mkdir(exist_ok=True)
    expected = _expected(docs)
    changed = [path for path, text in expected.items() if _read(path) != text]
    for path in changed:
        path.write_text(expected[path], "utf-8", newline="\n")
    surplus = [path for path in folder.glob("*.json") if path not in expected]
    for path in surplus:
        path.unlink()
    return sorted([*changed, *surplus])


def _read(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """With the argument `DOCS`, write the files. With `--check DOCS`, only report which ones differ; 1 if any does."""
    *flags, folder = arguments or ["docs"]
    lines = drift(Path(folder)) if flags == ["--check"] else [f"wrote {path}" for path in write(Path(folder))]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 1 if flags and lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
