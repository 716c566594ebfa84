"""Which fields an application marks as secret: by `secret_fields`, and in the schemas of its commands. Pure."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from masterd.application.contract import Application

_PARTS = ("anyOf", "allOf", "oneOf", "prefixItems")


def marked_fields(application: Application) -> tuple[str, ...]:
    """The marks of an application, for `SecretFields`. It may take some milliseconds for each command.

    Raises what `application.commands()` raises.
    """
    marks = list(declared_fields(application))
    for command in application.commands().values():
        marks += marked_arguments(command.arguments)
    return tuple(dict.fromkeys(marks))


def declared_fields(application: Application) -> tuple[str, ...]:
    """The `secret_fields` of an application."""
    return tuple(getattr(application, "secret_fields", ()))


def marked_arguments(arguments: type[BaseModel]) -> tuple[str, ...]:
    """The names of the fields at any depth whose schema says `writeOnly` or `format: password`, as that of pydantic's
    SecretStr does. All fields, if the model has no schema."""
    try:
        schema = arguments.model_json_schema()
    except Exception:  # noqa: BLE001 - a model of an application may raise anything
        return tuple(arguments.model_fields)
    definitions = schema.get("$defs", {})
    objects = [schema, *definitions.values()]
    return tuple(
        name
        for item in objects
        for name, field in item.get("properties", {}).items()
        if _is_secret_schema(field, definitions, frozenset())
    )


def _is_secret_schema(schema: Any, definitions: dict[str, Any], seen: frozenset[str]) -> bool:
    if not isinstance(schema, dict):
        return False
    if schema.get("writeOnly") is True or schema.get("format") == "password":
        return True
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    if name and name not in seen and _is_secret_schema(definitions.get(name), definitions, seen | {name}):
        return True
    parts = [part for key in _PARTS for part in schema.get(key, ())]
    parts += [schema.get("items"), schema.get("additionalProperties")]
    return any(_is_secret_schema(part, definitions, seen) for part in parts)
