"""Shapes of the HTTP API are defined once: the OpenAPI document and the client have them from
nodestore.schema.api_types."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_type_hints

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from masterd.api import openapi
from masterd.api.node_views import command_view, node_view
from masterd.api.problems import problem_of
from masterd.application.contract import Command
from masterd.application.scenes import BuiltinApp
from masterd.state_machine.state import AdoptedConfig, State, VersionedDocument
from nodectl.client import Client
from nodectl.client.connection.results import NodeChanges
from nodestore.errors import Conflict, NotLeader
from nodestore.schema import api_types, models
from nodestore.schema.json_schema import Keywords, StoredModel, configured
from nodestore.schema.models import (
    Alive,
    CommandRecord,
    ConfigRecord,
    Desired,
    Entry,
    Inventory,
    Spec,
    Status,
    TermRecord,
)
from nodestore.schema.records import MarkStruct
from nodestore.support.jsonio import dumps, loads
from tests.support.published import DOCUMENT, SCHEMAS, faults, named

OPERATIONS = [(method, path) for path, item in DOCUMENT["paths"].items() for method in item]
SHAPES = {name for name in vars(api_types) if not name.startswith("_")}


# --- the document -------------------------------------------------------------------------------------------------


def _contents(operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the request's body and each answer hold."""
    yield from operation.get("requestBody", {}).get("content", {}).values()
    for response in operation["responses"].values():
        yield from response["content"].values()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_bodies_and_answers_are_named_after_their_types(method: str, path: str) -> None:
    """Every route refers to a named schema, and every stream to described events."""
    for content in _contents(DOCUMENT["paths"][path][method]):
        schema = content["schema"]
        for one in content.get("x-event-data", {}).values() or schema.get("anyOf", [schema]):
            assert list(one) == ["$ref"]
            assert one["$ref"].removeprefix("#/components/schemas/") in SHAPES


def test_every_reference_leads_somewhere() -> None:
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    assert references <= SCHEMAS.keys()
    arguments = {command.arguments.__name__ for command in BuiltinApp().commands().values()}
    assert SCHEMAS.keys() == references | arguments
    assert SCHEMAS.keys() >= {"NodeView", "Status", "Alive", "CommandView", "Inventory", "NodeSet", "SceneApply"}


def test_an_application_cannot_change_the_api() -> None:
    """Not even one whose arguments have the name of an answer."""
    arguments = type("Nodes", (BaseModel,), {"__annotations__": {"count": int}})

    class App(BuiltinApp):
        def commands(self) -> dict[str, Command]:
            return {"count": Command(arguments, lambda transaction, args: None, "")}

    document = openapi.document(App())
    assert document["components"]["schemas"]["Nodes"] == SCHEMAS["Nodes"]
    assert document["paths"] == DOCUMENT["paths"]
    command = document["components"]["schemas"]["Command"]["properties"]
    assert (command["name"]["examples"], command["args"]["description"]) == (["count"], "count: Nodes")


def _bare(schema: Any) -> Any:
    """The schema without its descriptions, its references followed."""
    if isinstance(schema, list):
        return [_bare(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _bare(SCHEMAS[schema["$ref"].rpartition("/")[2]])
    return {key: _bare(value) for key, value in schema.items() if key not in ("title", "description", "default")}


def _mirrored(model: type[BaseModel]) -> dict[str, Any]:
    properties = TypeAdapter(model).json_schema(ref_template="#/components/schemas/{model}")["properties"]
    return {name: _bare(schema) for name, schema in properties.items()}


@pytest.mark.parametrize(
    ("model", "view", "more"),
    [(CommandRecord, "CommandView", {"epoch", "term"}), (TermRecord, "TermView", {"revision"})],
)
def test_a_view_of_a_stored_record_has_all_its_fields(model: type[BaseModel], view: str, more: set[str]) -> None:
    """A field that is added to the model, or whose type changes, is to be changed in the view as well."""
    shown = {name: _bare(schema) for name, schema in SCHEMAS[view]["properties"].items()}
    assert shown.keys() - _mirrored(model).keys() == more
    assert {name: schema for name, schema in shown.items() if name not in more} == _mirrored(model)


# --- the client -----------------------------------------------------------------------------------------------------


def _answer_of(method: str, path: str) -> str:
    answer = DOCUMENT["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
    return str(answer["$ref"]).rpartition("/")[2]


@pytest.mark.parametrize(
    ("call", "method", "path", "field"),
    [
        (Client.masters, "get", "/v1/masters", "masters"), (Client.members, "get", "/v1/members", "members"),
        (Client.nodes, "get", "/v1/nodes", "nodes"), (Client.node, "get", "/v1/nodes/{node}", None),
        (Client.documents, "get", "/v1/documents", "documents"),
        (Client.document, "get", "/v1/documents/{path}", None), (Client.history, "get", "/v1/history", None),
        (Client.terms, "get", "/v1/terms", "terms"), (Client.status, "get", "/v1/status", None),
        (Client.snapshots, "get", "/v1/snapshots", "snapshots"),
        (Client.snapshot, "get", "/v1/snapshots/{name}", None),
        (Client.snapshot_save, "post", "/v1/snapshots", None),
        (Client.config_history, "get", "/v1/config/history", "versions"),
        (Client.config_apply, "put", "/v1/config", "version"),
        (Client.switchover, "post", "/v1/leader/switchover", None), (Client.drill, "post", "/v1/drill", None),
    ],
)  # fmt: skip
def test_the_client_returns_what_the_route_answers(
    call: Callable[..., Any], method: str, path: str, field: str | None
) -> None:
    """The same type, or the type of the answer's only field that matters."""
    answer = getattr(api_types, _answer_of(method, path))
    expected = answer if field is None else get_type_hints(answer)[field]
    assert get_type_hints(call)["return"] == expected


def test_the_client_returns_no_more_of_a_configuration_than_etcd_has() -> None:
    """It reads that from a master or from etcd: what a master answers has all the fields."""
    assert _answer_of("get", "/v1/config") == "Config"
    assert get_type_hints(Client.config)["return"] is api_types.ConfigSummary
    whole, summary = get_type_hints(api_types.Config), get_type_hints(api_types.ConfigSummary)
    assert whole.items() >= summary.items()
    assert api_types.Config.__required_keys__ >= api_types.ConfigSummary.__required_keys__


def test_changed_nodes_are_nodes_as_they_are_read() -> None:
    """By the stream and by the client."""
    assert get_type_hints(NodeChanges)["nodes"] == get_type_hints(api_types.NodesEvent)["nodes"]


def test_the_types_load_quickly() -> None:
    """The CLI needs them before it needs pydantic."""
    code = "import sys, nodestore.schema.api_types; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {"pydantic", "pydantic_core", "asyncio", "nodestore.schema.models"} & set(done.stdout.split())


# --- what masterd builds --------------------------------------------------------------------------------------------


def _valid(name: str, value: Any) -> bool:
    """Return whether `value`, encoded as JSON, matches the schema and has no unknown field."""
    return faults(named(name), loads(dumps(value))) == []


INVENTORY = Inventory.model_validate(
    {
        "nodes": {"n1": {"position": [0, 1], "labels": {"row": "0"}, "driver": {"name": "process"}}, "n2": {}},
        "groups": {"top": {"match": {"row": "0"}}},
    }
)
STATUS = Status(node="n1", nonce="a", host="pc1", phase="ready", observed_generation=3, actual={"text": "é"})
ALIVE = Alive(host_id="h", nonce="a", host="pc1", pid=7)


def _state() -> State:
    record = ConfigRecord(version=1, actor="a", time=0.0, inventory=INVENTORY.model_dump(mode="json"))
    return State(
        documents={"nodes/n1": VersionedDocument(3, {"text": "hi"})}, specs={"n1": MarkStruct(generation=3, hash="0f")},
        adopted=AdoptedConfig(record, 5, 1, INVENTORY),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "status", "alive", "problem"),
    [
        ("n1", STATUS, ALIVE, None), ("n2", None, None, "no noded has ever reported"),
        ("n1", STATUS, None, "down: no noded is connected"), ("n1", None, ALIVE, "its noded has not reported yet"),
    ],
)  # fmt: skip
def test_a_node_is_shown_as_published(
    name: str, status: Status | None, alive: Alive | None, problem: str | None
) -> None:
    """Every field is there, whatever is not known; stored values are shown as they are stored."""
    statuses, living = {name: status} if status else {}, {name: alive} if alive else {}
    view = node_view(name, INVENTORY, _state(), statuses, living, BuiltinApp())
    assert _valid("NodeView", view)
    assert view.keys() == api_types.NodeView.__required_keys__
    assert (view["problem"], view["converged"]) == (problem, problem is None)
    assert view["status"] == (loads(status.encode()) if status else None)
    assert view["alive"] == (loads(alive.encode()) if alive else None)


def _order(epoch: int, term: int, generation: int) -> dict[str, Desired]:
    return {"n1": Desired(epoch=epoch, term=term, generation=generation, spec=Spec(driver="file"))}


@pytest.mark.parametrize(
    ("orders", "obeyed", "problem"),
    [
        (_order(2, 9, 3), (2, 9, 3), None),
        (_order(2, 9, 3), (1, 9, 3), "it has obeyed 1.9.3, but 2.9.3 is desired"),
        (_order(2, 9, 3), (2, 8, 3), "it has obeyed 2.8.3"),
        (_order(2, 9, 3), (1, 5, 13), "at generation 13, generation 3 is desired"),
        (_order(2, 9, 3), (0, 0, 3), None),  # an older noded names no order
        (_order(2, 9, 2), (2, 9, 3), None),  # the watch of the order lags behind
        ({}, (2, 9, 3), "its desired state is not in etcd"),
    ],
)
def test_a_status_counts_for_its_own_order_only(
    orders: dict[str, Desired], obeyed: tuple[int, int, int], problem: str | None
) -> None:
    """Compared with what `desired/<node>` holds: the generation of another epoch may be higher or the same."""
    epoch, term, generation = obeyed
    status = STATUS.model_copy(update={"epoch": epoch, "term": term, "observed_generation": generation})
    view = node_view("n1", INVENTORY, _state(), {"n1": status}, {"n1": ALIVE}, BuiltinApp(), orders=orders)
    assert view["converged"] == (problem is None)
    assert (problem or "") in (view["problem"] or "")


def test_a_node_shows_its_configuration() -> None:
    view = node_view("n1", INVENTORY, _state(), {}, {}, BuiltinApp())
    assert (view["position"], view["groups"], view["driver"]) == ([0, 1], ["top"], "process")
    assert (view["document"], view["desired"]) == ({"text": "hi"}, {"generation": 3, "hash": "0f"})


@pytest.mark.parametrize(
    "record",
    [
        {"index": 1, "id": "a", "actor": "b", "time": 0.0, "name": "node.clear"},
        {"index": 2, "id": "a", "actor": "b", "time": 1.5, "name": "node.set", "args": {"node": "n1"}, "result": [1],
         "writes": {"nodes/n1": {"x": 1}, "nodes/n2": None}, "config_version": 4,
         "specs": {"n1": {"generation": 2, "hash": "0f"}, "n2": None},
         "actions": {"n1": {"name": "restart", "args": {}, "expires": 5.0}}, "closes": {"n1": [1]}},
        {"index": 3, "id": "a", "actor": "b", "time": 1.5, "name": "config.adopt", "config_revision": 7,
         "config": {"version": 1, "actor": "b", "time": 0.0, "inventory": {}}, "restore": "0-a"},
    ],
)  # fmt: skip
def test_a_command_is_shown_as_published(record: dict[str, Any]) -> None:
    """With the epoch and term that committed it, and without fields that have their default value."""
    command = CommandRecord.model_validate(record)
    shown = command_view(command, Entry(epoch=1, term=9, nonce="n", commands=(command,)))
    assert _valid("CommandView", shown)
    assert shown.keys() == {*record, "epoch", "term"}


def test_a_problem_is_shown_as_published() -> None:
    assert _valid("Problem", problem_of(Conflict("no")))
    assert _valid("Problem", problem_of(NotLeader("no", "http://m1:1")))
    assert not _valid("Problem", {**problem_of(Conflict("no")), "leader": "m1"})


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("PausedOrNot", {}, True), ("PausedOrNot", {"actor": "a", "time": 1.0}, True), ("PausedOrNot", {"x": 1}, False),
        ("Command", {"name": "a", "id": "b", "after": 0}, True), ("Command", {"name": "a", "id": "b"}, False),
        ("Command", {"name": ""}, False), ("Command", {"name": "a", "id": "b" * 129, "after": 0}, False),
        ("Commands", {"commands": []}, False), ("Commands", {"commands": [{"name": "a"}] * 257}, False),
        ("Outcomes", {"results": [{"id": "a"}], "index": 1}, False),
        ("DrillRequest", {"how": "freeze", "seconds": 10.5}, False),
        ("DrillRequest", {"how": "kill", "term": 0}, False),
        ("DrillRequest", {"how": "kill", "seconds": None, "term": None, "actor": None}, True),
        ("Switchover", {"from": "m1", "to": "m2", "term": {"epoch": None, "revision": 3}}, True),
        ("Switchover", {"from": "m1", "to": "m2", "term": {"revision": 3}}, False),
        ("SilentEtcd", {"name": "?", "endpoint": "", "healthy": False, "leader": False, "error": "late"}, True),
    ],
)  # fmt: skip
def test_shapes_keep_their_rules(name: str, value: Any, valid: bool) -> None:
    """Bounds and what depends on what are part of the types."""
    assert _valid(name, value) is valid


# --- the annotations ------------------------------------------------------------------------------------------------


def test_keywords_are_added_to_a_schema() -> None:
    assert TypeAdapter(Annotated[int, Keywords(minimum=3)]).json_schema() == {"type": "integer", "minimum": 3}


@pytest.mark.parametrize("name", ["Paused", "Cause"])
def test_what_is_stored_has_the_schema_of_its_model(name: str) -> None:
    assert (
        TypeAdapter(Annotated[Any, StoredModel(name)]).json_schema() == TypeAdapter(getattr(models, name)).json_schema()
    )


@configured(extra="forbid", minProperties=1)
class Marked(TypedDict):
    """Holds one field."""

    x: int


def test_a_typed_dict_is_configured() -> None:
    """The decorator adds keywords to the schema, and decides whether unknown fields are allowed."""
    schema = TypeAdapter(Marked).json_schema()
    assert (schema["minProperties"], schema["additionalProperties"]) == (1, False)
    with pytest.raises(ValidationError):
        TypeAdapter(Marked).validate_python({"x": 1, "y": 2})
