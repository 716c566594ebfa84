"""The OpenAPI document, from the same models that the API and the store use."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from masterd.app import Application
from masterd.queries import NodeView
from nodestore import __version__
from nodestore.models import CommandRecord, ConfigRecord, DocumentView, Inventory, Paused, TermRecord

_MODELS: tuple[type[BaseModel], ...] = (
    NodeView, CommandRecord, ConfigRecord, DocumentView, Inventory, Paused, TermRecord,
)  # fmt: skip
_REF = "#/components/schemas/{model}"


def document(application: Application) -> dict[str, Any]:
    """OpenAPI 3.1 of the API, with the commands of this application."""
    commands = application.commands()
    models = [*_MODELS, *(command.arguments for command in commands.values())]
    schemas = models_json_schema([(model, "serialization") for model in models], ref_template=_REF)[1]["$defs"]
    schemas |= _plain_schemas({name: command.arguments.__name__ for name, command in commands.items()})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nodectl master",
            "version": __version__,
            "description": "The master of one cluster. Any masterd answers; what only the leader can do is passed on.",
        },
        "paths": _paths(),
        "components": {"schemas": schemas},
    }


def _plain_schemas(arguments: dict[str, str]) -> dict[str, Any]:
    text, number = {"type": "string"}, {"type": "integer", "minimum": 0}
    return {
        "Problem": {
            "type": "object",
            "required": ["type", "title", "status", "detail", "code"],
            "properties": {
                "type": text, "title": text, "status": number, "detail": text, "code": text, "leader_url": text,
            },
        },
        "Command": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "examples": sorted(arguments)},
                "args": {"type": "object", "description": "; ".join(f"{k}: {v}" for k, v in sorted(arguments.items()))},
                "id": {"type": "string", "minLength": 1, "maxLength": 128},
                "after": {**number, "description": "with an id: the index known when it was first sent"},
                "actor": text,
            },
        },
        "Outcome": {
            "type": "object",
            "properties": {"id": text, "index": number, "result": {}, "repeated": {"type": "boolean"},
                           "problem": {"$ref": "#/components/schemas/Problem"}},
        },
    }  # fmt: skip


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


_PROBLEM = {
    "description": "a problem document (RFC 9457)",
    "content": {"application/problem+json": {"schema": _ref("Problem")}},
}
_CONSISTENCY = {
    "name": "consistency", "in": "query",
    "schema": {"type": "string", "enum": ["linearizable", "local"], "default": "linearizable"},
}  # fmt: skip


def _query(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": {"type": kind}}


def _get(summary: str, schema: dict[str, Any], *parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "get": {
            "summary": summary,
            "parameters": [_CONSISTENCY, *parameters],
            "responses": {"200": {"description": "as asked for", **_json(schema)}, "default": _PROBLEM},
        }
    }


def _write(method: str, summary: str, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return {
        method: {
            "summary": summary,
            "requestBody": {"required": True, **_json(body)},
            "responses": {"200": {"description": "done", **_json(answer)}, "default": _PROBLEM},
        }
    }


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _list_of(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "array", "items": schema}}}


def _paths() -> dict[str, Any]:
    anything = {"type": "object"}
    many = {"type": "object", "required": ["commands"], "properties": {
        "commands": {"type": "array", "items": _ref("Command"), "minItems": 1, "maxItems": 256}}}  # fmt: skip
    return {
        "/v1/health": _get("this masterd's role and index", anything),
        "/v1/leader": _get("who leads", anything),
        "/v1/masters": _get("every masterd that could lead", anything),
        "/v1/members": _get("the members of etcd", anything),
        "/v1/nodes": _get("all nodes", _list_of("nodes", _ref("NodeView"))),
        "/v1/nodes/{node}": _get("one node", _ref("NodeView"), _path_parameter("node")),
        "/v1/nodes/watch": _get("nodes as they change (text/event-stream)", anything),
        "/v1/documents": _get("documents by prefix", anything, _query("prefix", "string")),
        "/v1/documents/{path}": _get("one document", _ref("DocumentView"), _path_parameter("path")),
        "/v1/commands": _write(
            "post",
            "run one command, or a list of up to 256",
            {"oneOf": [_ref("Command"), many]},
            {"oneOf": [_ref("Outcome"), _list_of("results", _ref("Outcome"))]},
        ),
        "/v1/history": _get(
            "commands from the journal",
            _list_of("entries", _ref("CommandRecord")),
            *(_query(name, kind) for name, kind in (("limit", "integer"), ("after", "integer"), ("before", "integer"))),
            _query("node", "string"),
            _query("actor", "string"),
        ),
        "/v1/terms": _get("who led since when, and why", _list_of("terms", _ref("TermRecord"))),
        "/v1/events": _get("the journal as it grows (text/event-stream)", anything, _query("after", "integer")),
        "/v1/live": _get("who is there, as it changes (text/event-stream)", anything),
        "/v1/snapshots": {
            **_get("all snapshots", anything),
            **_write("post", "save the state under a name", anything, anything),
        },
        "/v1/snapshots/{name}": {
            **_get("one snapshot with its documents", anything, _path_parameter("name")),
            "delete": {
                "summary": "delete a named snapshot",
                "parameters": [_path_parameter("name")],
                "responses": {"200": {"description": "deleted"}, "default": _PROBLEM},
            },
        },
        "/v1/config/history": _get("the configurations that were applied", anything, _query("limit", "integer")),
        "/v1/config": {
            **_get("the configuration as written and as adopted", anything),
            **_write("put", "write a configuration", anything, anything),
        },
        "/v1/status": _get("one screen: everything, and what is wrong", anything),
        "/v1/leader/switchover": _write("post", "hand leadership to a standby", anything, anything),
        "/v1/paused": {
            **_get("whether takeovers are paused", _ref("Paused")),
            **_write("put", "pause takeovers", anything, _ref("Paused")),
            "delete": {
                "summary": "resume takeovers",
                "responses": {"200": {"description": "resumed"}, "default": _PROBLEM},
            },
        },
    }
