"""JSON Schemas of what the HTTP API takes and answers, generated from nodestore.schema.api_types, for openapi.py alone.

What must be there is `required`; answers may hold more. Bodies are checked in api.py, by hand, on the hot route.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter

from nodestore.schema import api_types
from nodestore.schema.json_schema import Schema

_REF = "#/components/schemas/{model}"


def ref(name: str) -> Schema:
    """A reference to the schema of the type `name`."""
    return {"$ref": _REF.format(model=name)}


def schemas(names: Iterable[str], arguments: Mapping[str, type[BaseModel]]) -> dict[str, Schema]:
    """By name: schemas of these types of api_types, of all that they hold, and of each command's arguments.

    Fields that have a default may be missing, in requests and in answers. The API's names win over an application's.
    """
    ours = _definitions([getattr(api_types, name) for name in names])
    _describe_commands(ours["Command"], arguments)
    return _definitions(arguments.values()) | ours


def _definitions(kinds: Iterable[Any]) -> dict[str, Schema]:
    mode: Literal["validation"] = "validation"
    adapters = [(position, mode, TypeAdapter(kind)) for position, kind in enumerate(kinds)]
    definitions: dict[str, Schema] = TypeAdapter.json_schemas(adapters, ref_template=_REF)[1].get("$defs", {})
    return definitions


def _describe_commands(command: Schema, arguments: Mapping[str, type[BaseModel]]) -> None:
    """Which commands there are, and the schema of each one's arguments."""
    shapes = "; ".join(f"{name}: {model.__name__}" for name, model in sorted(arguments.items()))
    command["properties"]["name"]["examples"] = sorted(arguments)
    command["properties"]["args"]["description"] = shapes
