"""The OpenAPI document. Its schemas have the names of the types in nodestore.schema.api_types, which define them."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

from masterd.api.response_schemas import ref, schemas
from masterd.application.contract import Application
from nodestore import __version__
from nodestore.schema.api_types import INDEX_MAX, Consistency

JsonObject = dict[str, Any]

_TEXT: JsonObject = {"type": "string"}
_INDEX: JsonObject = {"type": "integer", "minimum": 0, "maximum": INDEX_MAX}


def document(application: Application) -> JsonObject:
    """OpenAPI 3.1 of the API, with the commands of this application."""
    paths = _paths()
    arguments = {name: command.arguments for name, command in application.commands().items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nodectl master",
            "version": __version__,
            "description": "The master of one cluster. Any masterd answers; what only the leader can do is passed on.",
        },
        "paths": paths,
        "components": {"schemas": schemas(_referenced(paths), arguments)},
    }


def _referenced(paths: JsonObject) -> list[str]:
    """The names of the schemas that the paths refer to."""
    return sorted(set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(paths))))


_PROBLEM = {
    "description": "a problem document (RFC 9457)",
    "content": {"application/problem+json": {"schema": ref("Problem")}},
}
_CONSISTENCY = {
    "name": "consistency",
    "in": "query",
    "description": "local: what this masterd has in memory; linearizable: includes all that was acknowledged before",
    "schema": {**_TEXT, "enum": list(get_args(Consistency)), "default": "linearizable"},
}


def _json(schema: JsonObject) -> JsonObject:
    return {"content": {"application/json": {"schema": schema}}}


def _responses(schema: JsonObject) -> JsonObject:
    return {"200": {"description": "as asked for", **_json(schema)}, "default": _PROBLEM}


def _local(summary: str, answer: str) -> JsonObject:
    return {"get": {"summary": summary, "responses": _responses(ref(answer))}}


def _get(summary: str, answer: str, *parameters: JsonObject) -> JsonObject:
    return {
        "get": {"summary": summary, "parameters": [_CONSISTENCY, *parameters], "responses": _responses(ref(answer))}
    }


def _stream(summary: str, data: dict[str, str], *parameters: JsonObject) -> JsonObject:
    """A stream that does not end until either side closes it. `data`: by event, the type of its data."""
    shapes = {event: ref(kind) for event, kind in data.items()}  # OpenAPI 3.1 has no place for them
    events = {
        "description": "events until either side closes: " + ", ".join(data),
        "content": {"text/event-stream": {"schema": _TEXT, "x-event-data": shapes}},
    }
    return {"get": {"summary": summary, "parameters": [*parameters], "responses": {"200": events, "default": _PROBLEM}}}


def _write(method: str, summary: str, body: JsonObject, answer: JsonObject) -> JsonObject:
    asked = {"required": True, **_json(body)}
    return {method: {"summary": summary, "requestBody": asked, "responses": _responses(answer)}}


def _delete(summary: str, answer: JsonObject, *parameters: JsonObject) -> JsonObject:
    return {"delete": {"summary": summary, "parameters": [*parameters], "responses": _responses(answer)}}


def _query(name: str, schema: JsonObject, text: str) -> JsonObject:
    return {"name": name, "in": "query", "schema": schema, "description": text}


def _in_path(name: str) -> JsonObject:
    return {"name": name, "in": "path", "required": True, "schema": {**_TEXT, "minLength": 1}}


_EVENT = {**_TEXT, "pattern": r"^([0-9]{1,16}\.)?[0-9]{1,16}$"}
_LIMIT = _query("limit", {**_INDEX, "minimum": 1}, "at most so many; more than 1,000 are not given at once")


def _paths() -> JsonObject:
    return {
        "/v1/health": _local("this masterd's role and index", "Health"),
        "/v1/leader": _get("who leads", "Leader"),
        "/v1/masters": _get("every masterd that could lead", "Masters"),
        "/v1/members": _get("the members of etcd", "Members"),
        "/v1/nodes": _get("all nodes", "Nodes"),
        "/v1/nodes/{node}": _get("one node", "NodeView", _in_path("node")),
        "/v1/nodes/watch": _stream("all nodes, then those that change (text/event-stream)", {"nodes": "NodesEvent"}),
        "/v1/documents": _get("documents by prefix", "Documents", _query("prefix", _TEXT, "of the documents' paths")),
        "/v1/documents/{path}": _get("one document", "Document", _in_path("path")),
        "/v1/commands": _write(
            "post",
            "run one command, or a list of up to 256",
            {"anyOf": [ref("Command"), ref("Commands")]},
            {"anyOf": [ref("Outcome"), ref("Outcomes")]},
        ),
        "/v1/history": _get(
            "commands from the journal: the newest first, or with `after` the oldest first from there on",
            "History",
            _LIMIT,
            _query("after", _INDEX, "only commands with a greater index"),
            _query("before", _INDEX, "only commands with a smaller index; 0: all"),
            _query("node", _TEXT, "only commands that changed what this node must be, or are about an action of it"),
            _query("actor", _TEXT, "only commands of this author"),
            _query("command", _TEXT, "only commands of this name"),
        ),
        "/v1/terms": _get("who led since when, and why", "Terms"),
        "/v1/events": _stream(
            "the journal as it grows (text/event-stream)",
            {"command": "CommandView", "gone": "GoneEvent"},
            _query("after", _EVENT, "the id of the last event that is known, or an index"),
        ),
        "/v1/live": _stream(
            "who is there, as it changes (text/event-stream)",
            {"leader": "LeaderEvent", "masters": "MastersEvent", "paused": "PausedEvent", "nodes": "NodesEvent"},
        ),
        "/v1/snapshots": {
            **_get("all snapshots", "Snapshots"),
            **_write("post", "save the state under a name", ref("SnapshotRequest"), ref("Snapshot")),
        },
        "/v1/snapshots/{name}": {
            **_get("one snapshot with its documents", "SnapshotContent", _in_path("name")),
            **_delete("delete a named snapshot", ref("Deleted"), _in_path("name")),
        },
        "/v1/config/history": _get("the configurations that were applied, newest first", "ConfigHistory", _LIMIT),
        "/v1/config": {
            **_get("the configuration as written and as adopted", "Config"),
            **_write("put", "write a configuration", ref("ConfigRequest"), ref("ConfigVersion")),
        },
        "/v1/status": _get("one screen: everything, and what is wrong", "Overview"),
        "/v1/leader/switchover": _write(
            "post", "hand leadership to a standby", ref("SwitchoverRequest"), ref("Switchover")
        ),
        "/v1/drill": _write(
            "post",
            "kill or freeze the leader on purpose, if its masterd was started with --allow-drills",
            ref("DrillRequest"),
            ref("Drill"),
        ),
        "/v1/paused": {
            **_local("whether takeovers are paused: an empty object when they are not", "PausedOrNot"),
            **_write("put", "pause takeovers", ref("PauseRequest"), ref("Paused")),
            **_delete("resume takeovers", ref("Empty")),
        },
    }
