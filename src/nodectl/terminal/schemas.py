"""Describes the arguments of a command from their JSON Schema, on one line for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_CHOICES_MAX = 8


def describe_arguments(schema: Mapping[str, Any]) -> str:
    """The arguments with their types, such as `node=text [by=integer]`. Those in brackets are optional."""
    properties, required = schema.get("properties") or {}, schema.get("required") or ()
    words = []
    for name, field in properties.items():
        word = f"{name}={_type_of(field, schema)}"
        words.append(word if name in required else f"[{word}]")
    return " ".join(words)


def _type_of(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    field = _resolved(field, schema)
    if "const" in field:
        return json.dumps(field["const"])
    if isinstance(field.get("enum"), list) and len(field["enum"]) <= _CHOICES_MAX:
        return "|".join(str(item) for item in field["enum"])
    if options := field.get("anyOf") or field.get("oneOf"):
        kinds = dict.fromkeys(_type_of(option, schema) for option in options)
        return "|".join(kind for kind in kinds if kind != "null")
    kind = field.get("type", "any")
    return "text" if kind == "string" else str(kind)


def _resolved(field: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    name = str(field.get("$ref", "")).rpartition("/")[2]
    found = (schema.get("$defs") or {}).get(name)
    return found if isinstance(found, Mapping) else field
