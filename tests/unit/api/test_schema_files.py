"""The published schemas agree with the models, and accept what the models accept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from masterd.api import schema_files
from nodestore.schema.keys import Keys
from nodestore.schema.models import MODELS, Desired, Inventory, Spec

DOCS = Path(__file__).parents[3] / "docs"


def test_the_files_are_what_the_models_say() -> None:
    """The published files are up to date. If not, the message names each file and `make schemas`."""
    assert schema_files.drift(DOCS) == []


def test_drift_is_seen_and_mended(tmp_path: Path) -> None:
    """A changed, a missing and a surplus file each give one line with the remedy; writing the files removes all
    differences."""
    docs = tmp_path / "docs"
    shutil.copytree(DOCS, docs)
    (docs / "schemas" / "Desired.json").write_text("{}\n", "utf-8")
    (docs / "schemas" / "Status.json").unlink()
    (docs / "schemas" / "Gone.json").write_text("{}\n", "utf-8")
    page = (docs / schema_files.PAGE).read_text("utf-8")
    (docs / schema_files.PAGE).write_text(page.replace("| `head` |", "| `heads` |"), "utf-8")
    said = schema_files.drift(docs)
    assert len(said) == 4
    assert all(line.startswith("docs/schemas") and line.endswith(": run make schemas") for line in said)
    assert len(schema_files.write(docs)) == 4
    assert schema_files.drift(docs) == []
    assert schema_files.write(docs) == []


def test_every_model_is_published_under_its_key() -> None:
    """No model is forgotten in the table, and every key in it is one of the layout."""
    assert {*schema_files.KEYS.values(), Inventory} == set(MODELS)
    layout = {str(value).removeprefix("/nodectl/c/") for value in vars(Keys("c")).values()}
    for pattern in schema_files.KEYS:
        assert pattern in layout or any(key.endswith("/") and pattern.startswith(key) for key in layout), pattern


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_schema_says_what_it_is(model: Any) -> None:
    """Identity first; unknown fields are allowed; `v` is optional and not beyond what the programs read."""
    schema = schema_files.schema_of(model)
    assert list(schema)[:4] == ["$schema", "$id", "title", "description"]
    assert schema["$id"] == f"urn:nodectl:schema:1:{model.__name__}"
    assert schema["additionalProperties"] is True
    assert schema["properties"]["v"]["maximum"] == 1
    assert "v" not in schema.get("required", [])


def test_schemas_judge_as_the_models_do() -> None:
    """By an independent implementation: what we write is valid, what we refuse is not."""
    valid = jsonschema_rs.validator_for(schema_files.schema_of(Desired)).is_valid
    desired = json.loads(Desired(epoch=1, term=7, generation=3, spec=Spec(driver="exec")).encode())
    assert valid(desired)
    assert valid({**desired, "later": {"field": 1}})
    del desired["v"]
    assert valid(desired)
    assert not valid({**desired, "v": 2})
    assert not valid({**desired, "generation": "3"})
    assert not valid({key: value for key, value in desired.items() if key != "spec"})
