"""Validates values against the OpenAPI document of the built-in application, by an independent implementation."""

from __future__ import annotations

from typing import Any

import jsonschema_rs

from masterd.api import openapi
from masterd.application.scenes import BuiltinApp

DOCUMENT = openapi.document(BuiltinApp())
SCHEMAS: dict[str, dict[str, Any]] = DOCUMENT["components"]["schemas"]
_CLOSED = {name: {"unevaluatedProperties": False, **schema} for name, schema in SCHEMAS.items()}


def faults(schema: dict[str, Any], value: Any) -> list[str]:
    """Return where `value` violates this schema of the document, or has a field that the schema does not describe."""
    validator = jsonschema_rs.validator_for({**schema, "components": {"schemas": _CLOSED}})
    return [f"{'/'.join(map(str, error.instance_path))}: {error.message}" for error in validator.iter_errors(value)]


def named(name: str) -> dict[str, Any]:
    """Return a reference to the schema `name`."""
    return {"$ref": f"#/components/schemas/{name}"}
