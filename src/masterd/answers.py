"""JSON Schemas of what the HTTP API takes and answers, where no model of ours says it. Only openapi.py uses them.

What must be there is `required`; answers may hold more. Bodies are checked in api.py, by hand, on the hot route.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
YES_NO: Schema = {"type": "boolean"}
ANYTHING: Schema = {}
INDEX_MAX = 10**16 - 1
"""The journal's keys have sixteen digits."""
DRILLS = ["kill", "freeze"]
FREEZE_MAX_S = 10.0


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def list_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def map_of(schema: Schema) -> Schema:
    return {"type": "object", "additionalProperties": schema}


def record(optional: dict[str, Schema] | None = None, /, **required: Schema) -> Schema:
    """An object with these fields, and perhaps others."""
    more = {"required": list(required)} if required else {}
    return {"type": "object", **more, "properties": {**required, **(optional or {})}}


_TERM = record(epoch=maybe(COUNT), revision=COUNT)
_GARBAGE = record(problem=TEXT)
"""In place of something in the store that cannot be read."""

LEADER = record(
    id=TEXT, host=TEXT, url=TEXT, urls=list_of(TEXT), term=_TERM, nonce=TEXT, since=NUMBER, cause=TEXT, why=TEXT,
    index=COUNT,
)  # fmt: skip
MASTER = record(
    id=TEXT, host=TEXT, url=TEXT, role={"enum": ["leader", "standby"]}, index=COUNT, priority=COUNT, version=TEXT,
    pid=COUNT,
)  # fmt: skip
MEMBER = record(
    id=TEXT, name=TEXT, endpoint=TEXT, healthy=YES_NO, leader=YES_NO, version=maybe(TEXT), db_bytes=maybe(COUNT),
    error=maybe(TEXT),
)  # fmt: skip
SNAPSHOT = record(snapshot=TEXT, name=maybe(TEXT), index=COUNT, time=NUMBER, documents=COUNT, bytes=COUNT)
CONFIG = record(
    current=maybe(ref("ConfigRecord")),
    adopted=maybe(record(version=COUNT, index=COUNT)),
    in_force=maybe(ref("ConfigRecord")),
    rejected=maybe(record(version=maybe(COUNT), error=TEXT)),
)
DOCUMENT = record(index=COUNT, document={"type": "object"})

ANSWERS: dict[str, Schema] = {
    "Problem": record({"leader_url": TEXT}, type=TEXT, title=TEXT, status=COUNT, detail=TEXT, code=TEXT),
    "Outcome": record({"index": COUNT, "result": ANYTHING, "repeated": YES_NO, "problem": ref("Problem")}, id=TEXT),
    "Outcomes": record(results=list_of(ref("Outcome")), index=COUNT),
    "Health": record(
        id=TEXT, role={"enum": ["leader", "standby"]}, index=COUNT, problem=maybe(TEXT)
    ),
    "Leader": LEADER,
    "Masters": record(masters=list_of(MASTER)),
    "Members": record(members=list_of(MEMBER)),
    "Nodes": record(nodes=list_of(ref("NodeView")), index=COUNT),
    "Documents": record(index=COUNT, documents=map_of(DOCUMENT)),
    "Document": record(path=TEXT, index=COUNT, document={"type": "object"}),
    "History": record(
        entries=list_of({"anyOf": [ref("CommandRecord"), _GARBAGE]}), first_retained=maybe(COUNT), index=COUNT,
        searched=maybe(COUNT),
    ),
    "Terms": record(terms=list_of({"anyOf": [ref("TermRecord"), _GARBAGE]})),
    "Snapshot": SNAPSHOT,
    "Snapshots": record(snapshots=list_of(SNAPSHOT)),
    "SnapshotContent": {**SNAPSHOT, "properties": {**SNAPSHOT["properties"], "documents": map_of({"type": "object"})}},
    "Deleted": record(deleted=TEXT),
    "Config": CONFIG,
    "ConfigVersion": record(version=COUNT),
    "ConfigHistory": record(versions=list_of({"anyOf": [ref("ConfigRecord"), _GARBAGE]})),
    "PausedOrNot": {"anyOf": [ref("Paused"), {"type": "object", "maxProperties": 0}]},
    "Switchover": record(**{"from": TEXT}, to=TEXT, term=_TERM),
    "Drill": record(master=TEXT, how={"enum": DRILLS}, seconds=NUMBER, term=_TERM),
    "Overview": record(
        cluster=TEXT, leader=maybe(LEADER), masters=list_of(MASTER), members=list_of(record(name=TEXT, healthy=YES_NO)),
        nodes=list_of(ref("NodeView")), config=CONFIG, paused=maybe(ref("Paused")), index=COUNT, problems=list_of(TEXT),
    ),
}  # fmt: skip


def requests(arguments: dict[str, str]) -> dict[str, Schema]:
    """What bodies hold. `arguments`: the commands, with the schema of each one's arguments."""
    told = "; ".join(f"{name}: {schema}" for name, schema in sorted(arguments.items()))
    command = record(
        {
            "args": {"type": "object", "description": told},
            "id": {**TEXT, "minLength": 1, "maxLength": 128, "description": "lets it be repeated; needs `after`"},
            "after": {**COUNT, "description": "with an id: the index known when it was first sent"},
            "actor": maybe(TEXT),
        },
        name={**TEXT, "minLength": 1, "examples": sorted(arguments)},
    )
    command["dependentRequired"] = {"id": ["after"]}
    return {
        "Command": command,
        "Commands": record(commands={**list_of(ref("Command")), "minItems": 1, "maxItems": 256}),
        "SnapshotRequest": record(name={**TEXT, "examples": ["before-update"]}),
        "ConfigRequest": record(
            {"expect_version": {**maybe(COUNT), "description": "the version it is meant to follow; 0: none yet"},
             "source": {**maybe(TEXT), "description": "the YAML text it came from"}, "actor": maybe(TEXT)},
            inventory=ref("Inventory"),
        ),
        "PauseRequest": record({"actor": maybe(TEXT), "reason": maybe(TEXT)}),
        "SwitchoverRequest": record({"to": {**maybe(TEXT), "description": "a standby; by default the best ranked"},
                                     "actor": maybe(TEXT)}),
        "DrillRequest": record(
            {"seconds": {**maybe({**NUMBER, "exclusiveMinimum": 0, "maximum": FREEZE_MAX_S}),
                         "description": "how long to freeze; 3 unless said"},
             "term": {**maybe({**COUNT, "minimum": 1}), "description": "revision of the only term it is meant for"},
             "actor": maybe(TEXT)},
            how={"enum": DRILLS, "description": "kill: end at once; freeze: do nothing for a while"},
        ),
    }  # fmt: skip
