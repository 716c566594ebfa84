"""JSON Schemas of the API's requests and answers, generated from nodestore.schema.api_types for openapi.py.

Fields that are always present are `required`. Answers may hold more fields. Request bodies are checked by hand in
request_bodies.py, as a model per command would slow down the hot route.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter

from nodestore.schema import api_types
from nodestore.schema.json_schema import Schema

_REF = "#/components/schemas/{model}"


def ref(name: str) -> Schema:
    """A reference to the schema of the type `name` in nodestore.schema.api_types."""
    return {"$ref": _REF.format(model=name)}


def schemas(names: Iterable[str], arguments: Mapping[str, type[BaseModel]]) -> dict[str, Schema]:
    """By name: the schemas of these types of api_types, of the types they contain, and of each command's arguments.

    Fields with a default are optional, in requests and in answers. If a model of the application has the name of a
    type of the API, the API's type wins.
    """
    own = _definitions([getattr(api_types, name) for name in names])
    _describe_commands(own["Command"], arguments)
    return _definitions(arguments.values()) | own


def _definitions(kinds: Iterable[Any]) -> dict[str, Schema]:
    mode: Literal["validation"] = "validation"
    adapters = [(position, mode, TypeAdapter(kind)) for position, kind in enumerate(kinds)]
    definitions: dict[str, Schema] = TypeAdapter.json_schemas(adapters, ref_template=_REF)[1].get("$defs", {})
    return definitions


def _describe_commands(command: Schema, arguments: Mapping[str, type[BaseModel]]) -> None:
    """List in `command` the names of the application's commands, each with the name of its arguments' schema."""
    shapes = "; ".join(f"{name}: {model.__name__}" for name, model in sorted(arguments.items()))
    command["properties"]["name"]["examples"] = sorted(arguments)
    command["properties"]["args"]["description"] = shapes
