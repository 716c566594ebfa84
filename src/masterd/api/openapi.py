"""The OpenAPI document of the HTTP API. The types in nodestore.schema.api_types define its schemas and their names."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

from masterd.api.response_schemas import ref, schemas
from masterd.application.contract import Application
from nodestore import __version__
from nodestore.schema import api_types
from nodestore.schema.api_types import INDEX_MAX, Consistency
from nodestore.schema.log_requests import LOG_LINES, LOG_LINES_MAX, LOG_POSITION, LOG_WAIT_MAX_S

JsonObject = dict[str, Any]

_TEXT: JsonObject = {"type": "string"}
_INDEX: JsonObject = {"type": "integer", "minimum": 0, "maximum": INDEX_MAX}


def document(application: Application) -> JsonObject:
    """The OpenAPI 3.1 document of the API, with the commands of `application`."""
    paths = _paths()
    arguments = {name: command.arguments for name, command in application.commands().items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nodectl master",
            "version": __version__,
            "description": "The HTTP API of a cluster's masterds. Any masterd answers; it forwards to the leader what "
            "only the leader can serve.",
        },
        "paths": paths,
        "components": {"schemas": schemas(_referenced(paths), arguments)},
    }


def command_list(application: Application) -> api_types.CommandList:
    """The commands of `application`, with the schemas of their arguments."""
    commands: list[api_types.CommandInfo] = [
        {
            "name": name,
            "help": command.help or next(iter((command.arguments.__doc__ or "").strip().splitlines()), ""),
            "quick": command.quick,
            "arguments": command.arguments.model_json_schema(),
        }
        for name, command in sorted(application.commands().items())
    ]
    return {"application": application.name, "commands": commands}


def _referenced(paths: JsonObject) -> list[str]:
    """Names of the schemas to which the paths refer."""
    return sorted(set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(paths))))


_PROBLEM = {
    "description": "a problem document (RFC 9457)",
    "content": {"application/problem+json": {"schema": ref("Problem")}},
}
_CONSISTENCY = {
    "name": "consistency",
    "in": "query",
    "description": "local: from this masterd's memory; linearizable: includes every command acknowledged before",
    "schema": {**_TEXT, "enum": list(get_args(Consistency)), "default": "linearizable"},
}


def _json(schema: JsonObject) -> JsonObject:
    return {"content": {"application/json": {"schema": schema}}}


def _responses(schema: JsonObject) -> JsonObject:
    return {"200": {"description": "success", **_json(schema)}, "default": _PROBLEM}


def _local(summary: str, answer: str, *parameters: JsonObject) -> JsonObject:
    more = {"parameters": [*parameters]} if parameters else {}
    return {"get": {"summary": summary, **more, "responses": _responses(ref(answer))}}


def _get(summary: str, answer: str, *parameters: JsonObject) -> JsonObject:
    return {
        "get": {"summary": summary, "parameters": [_CONSISTENCY, *parameters], "responses": _responses(ref(answer))}
    }


def _stream(summary: str, data: dict[str, str], *parameters: JsonObject) -> JsonObject:
    """An operation that streams events until either side closes the connection. `data`: by event, the type of its
    data."""
    shapes = {event: ref(kind) for event, kind in data.items()}  # an extension: OpenAPI 3.1 cannot describe events
    events = {
        "description": "events until either side closes the connection: " + ", ".join(data),
        "content": {"text/event-stream": {"schema": _TEXT, "x-event-data": shapes}},
    }
    return {"get": {"summary": summary, "parameters": [*parameters], "responses": {"200": events, "default": _PROBLEM}}}


def _write(method: str, summary: str, body: JsonObject, answer: JsonObject) -> JsonObject:
    request = {"required": True, **_json(body)}
    return {method: {"summary": summary, "requestBody": request, "responses": _responses(answer)}}


def _delete(summary: str, answer: JsonObject, *parameters: JsonObject) -> JsonObject:
    return {"delete": {"summary": summary, "parameters": [*parameters], "responses": _responses(answer)}}


def _deprecated(item: JsonObject) -> JsonObject:
    """The operations of `item`, marked as kept only for old clients."""
    return {method: {**operation, "deprecated": True} for method, operation in item.items()}


def _query(name: str, schema: JsonObject, text: str) -> JsonObject:
    return {"name": name, "in": "query", "schema": schema, "description": text}


def _in_path(name: str) -> JsonObject:
    return {"name": name, "in": "path", "required": True, "schema": {**_TEXT, "minLength": 1}}


def _node_log() -> JsonObject:
    return {
        "get": {
            "summary": "a piece of the log of a node's program: its last lines, or what follows a position",
            "parameters": [
                _in_path("node"),
                _query("lines", {**_INDEX, "maximum": LOG_LINES_MAX, "default": LOG_LINES}, "how many last lines"),
                _query("after", {**_TEXT, "pattern": LOG_POSITION}, "the position after which the piece begins"),
                _query(
                    "wait_s",
                    {"type": "number", "minimum": 0, "maximum": LOG_WAIT_MAX_S, "default": 0},
                    "with `after`: how long to wait for new lines, in seconds",
                ),
            ],
            "responses": _responses(ref("NodeLog")),
        }
    }


_CLUSTER_EVENTS = {
    "leader": "LeaderEvent", "masters": "MastersEvent", "paused": "PausedEvent", "nodes": "NodesEvent",
}  # fmt: skip
_EVENT = {**_TEXT, "pattern": r"^([0-9]{1,16}\.)?[0-9]{1,16}$"}
_LIMIT = _query("limit", {**_INDEX, "minimum": 1}, "maximum number of items; an answer holds at most 1,000")

_SPEC = _query("spec", {"type": "boolean", "default": False}, "whether to add what the node must be, secrets masked")


def _paths() -> JsonObject:
    return {
        "/v1/health": _local("this masterd's role and index", "Health"),
        "/v1/leader": _get("the leader", "Leader"),
        "/v1/masters": _get("all candidates", "Masters"),
        "/v1/members": _get("the members of etcd", "Members"),
        "/v1/nodes": _get("all nodes", "Nodes", _SPEC),
        "/v1/nodes/{node}": _get("one node", "NodeView", _in_path("node"), _SPEC),
        "/v1/nodes/{node}/log": _node_log(),
        "/v1/nodes/watch": _stream("all nodes, then those that change (text/event-stream)", {"nodes": "NodesEvent"}),
        "/v1/documents": _get(
            "documents by prefix", "Documents", _query("prefix", _TEXT, "only documents whose paths begin with this")
        ),
        "/v1/documents/{path}": _get("one document", "Document", _in_path("path")),
        "/v1/commands": {
            **_local("the commands that this masterd's application has", "CommandList"),
            **_write(
                "post",
                "run one command, or a list of up to 256",
                {"anyOf": [ref("Command"), ref("Commands")]},
                {"anyOf": [ref("Outcome"), ref("Outcomes")]},
            ),
        },
        "/v1/commands/outcome": _write(
            "post",
            "what became of a command; if it has not taken effect, its id is closed and it never will",
            ref("OutcomeRequest"),
            ref("SettledOutcome"),
        ),
        "/v1/history": _get(
            "commands from the journal: newest first, or with `after` oldest first beyond that index",
            "History",
            _LIMIT,
            _query("after", _INDEX, "only commands with a greater index"),
            _query("before", _INDEX, "only commands with a smaller index; 0: all"),
            _query("node", _TEXT, "only commands that changed this node's spec, or concern one of its actions"),
            _query("actor", _TEXT, "only commands of this actor"),
            _query("command", _TEXT, "only commands of this name"),
            _query("since", {"type": "number", "minimum": 0}, "only commands from this time on, by the Unix epoch"),
        ),
        "/v1/terms": _get("the terms: which masterd led, since when and why; newest first", "Terms"),
        "/v1/events": _stream(
            "the commands of the journal as they are committed (text/event-stream)",
            {"command": "CommandView", "gone": "GoneEvent"},
            _query(
                "after",
                _EVENT,
                "the id of the last event that the client has, or an index of the journal",
            ),
        ),
        "/v1/cluster/watch": _stream(
            "the leader, the masterds, the pause and the nodes, then each that changes (text/event-stream)",
            _CLUSTER_EVENTS,
        ),
        "/v1/live": _deprecated(_stream("the earlier name of /v1/cluster/watch", _CLUSTER_EVENTS)),
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
        "/v1/status": _get("the state of the whole cluster, with all its problems", "Overview"),
        "/v1/leader/switchover": _write(
            "post", "hand leadership over to a standby", ref("SwitchoverRequest"), ref("Switchover")
        ),
        "/v1/drill": _write(
            "post",
            "kill or freeze the leader, if its masterd was started with --allow-drills",
            ref("DrillRequest"),
            ref("Drill"),
        ),
        "/v1/application": {
            **_get("the application that may lead, and what each masterd runs", "Application"),
            **_write(
                "put",
                "adopt an application: only masterds that run it take over",
                ref("AdoptRequest"),
                ref("ApplicationOrder"),
            ),
        },
        "/v1/login": _write(
            "post", "begin a browser session; for pages of this master over TLS", ref("LoginRequest"), ref("Login")
        ),
        "/v1/logout": _write("post", "end this browser session", ref("LogoutRequest"), ref("Empty")),
        "/v1/session/code": _write(
            "post", "a code that takes this browser session to another master", ref("MoveRequest"), ref("Move")
        ),
        "/v1/whoami": _local(
            "who sent this request, by its credential",
            "WhoAmI",
            _query("command", _TEXT, "say whether the sender may send this command"),
            _query("action", _TEXT, "the action among the arguments of that command"),
        ),
        "/v1/tokens": {
            **_local("all tokens and the roles of certificates", "Tokens"),
            **_write("post", "create a token, or give a role to a certificate", ref("TokenRequest"), ref("NewToken")),
        },
        "/v1/tokens/{id}": _delete("revoke a token or the role of a certificate", ref("Deleted"), _in_path("id")),
        "/v1/join-tokens": {
            **_local("all join tokens, with their uses", "JoinTokens"),
            **_write("post", "record a join token", ref("JoinTokenRequest"), ref("JoinTokenView")),
        },
        "/v1/join-tokens/{id}": _delete("revoke a join token", ref("Deleted"), _in_path("id")),
        "/v1/audit": _local("the newest entries of this masterd's audit log, oldest first", "Audit", _LIMIT),
        "/v1/access": _write("put", "switch access control on or off", ref("AccessRequest"), ref("AccessControl")),
        "/v1/paused": {
            **_local("whether takeovers are paused: an empty object if they are not", "PausedOrNot"),
            **_write("put", "pause takeovers", ref("PauseRequest"), ref("Paused")),
            **_delete("resume takeovers", ref("Empty")),
        },
    }
