"""The shapes of all requests and answers of the HTTP API, each defined once.

masterd builds its answers as these types, the client reads them as these types, and the OpenAPI document is generated
from them under the same names. An answer may hold more fields than its type: programs ignore fields they do not know.
A masterd of another version may leave out fields that are newer than it: a client reads those with `get`.
Types that stand for one another in a list are `final`: then `"problem" in item` tells a type checker which one it is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, final, get_args

from typing_extensions import TypeAliasType, TypedDict

from nodestore.schema.json_schema import Keywords, Stored, configured

INDEX_MAX = 10**16 - 1
"""The journal's keys have sixteen digits."""
COMMANDS_MAX = 256
"""In one request."""
ID_CHARS_MAX = 128
"""Length of a command's id."""
FREEZE_MAX_S = 10.0
"""How long a drill may freeze the leader, in seconds."""

Consistency = Literal["linearizable", "local"]
Role = Literal["leader", "standby"]
DrillKind = Literal["kill", "freeze"]
DRILLS: tuple[DrillKind, ...] = get_args(DrillKind)

Count = Annotated[int, Keywords(minimum=0)]
Text = Annotated[str, Keywords(minLength=1)]
JsonObject = dict[str, Any]

Cause = Annotated[str, Stored("Cause")]
SpecMark = Annotated[JsonObject, Stored("SpecMark")]
ActionRequest = Annotated[JsonObject, Stored("ActionRequest")]
ConfigRecord = Annotated[JsonObject, Stored("ConfigRecord")]
Inventory = Annotated[JsonObject, Stored("Inventory")]
Paused = Annotated[JsonObject, Stored("Paused")]
Status = Annotated[JsonObject, Stored("Status")]
Alive = Annotated[JsonObject, Stored("Alive")]


# --- errors and small answers ---------------------------------------------------------------------------------------


class Problem(TypedDict):
    """A problem document (RFC 9457). Programs decide by `code`; `detail` is for people."""

    type: str
    title: str
    status: Count
    detail: str
    code: str
    leader_url: NotRequired[str]


@configured(extra="forbid")
class Empty(TypedDict):
    """An empty object."""


class Health(TypedDict):
    """One masterd's role and how far its replica is."""

    id: str
    role: Role
    index: Count
    problem: str | None


class TermNumber(TypedDict):
    """The fencing token of a leadership. `epoch` is null while this masterd does not know it."""

    epoch: Count | None
    revision: Count


# --- masters and leadership -----------------------------------------------------------------------------------------


class LiveLeader(TypedDict):
    """Who leads, as the stream /v1/live reports it."""

    id: str
    url: str
    term: TermNumber
    since: float
    cause: str
    why: str


class LeaderSummary(LiveLeader):
    """Who leads, as far as the key `leader` in etcd says it."""

    host: str
    urls: list[str]


class Leader(LeaderSummary):
    """Who leads, since when and why. `index`: how far the answering masterd's replica is."""

    nonce: str
    index: Count


class LiveMaster(TypedDict):
    """A masterd that could lead, without its index, which changes with every command."""

    id: str
    host: str
    url: str
    role: Role
    priority: Count
    version: str
    pid: Count


class MasterView(LiveMaster):
    """A masterd that could lead. `index`: how far its replica was when it last reported."""

    index: Count


class Masters(TypedDict):
    """Every masterd that could lead."""

    masters: list[MasterView]


@final
class TermView(TypedDict):
    """One leadership: the stored TermRecord, and the term's revision."""

    v: int
    id: str
    host: str
    nonce: str
    epoch: int
    since: float
    cause: Cause
    why: str
    ended: str | None
    phases: dict[str, float]
    suspected_by: list[str]
    taken_from: str | None
    taken_term: int | None
    revision: Count


@final
class UnreadableTerm(TypedDict):
    """In place of a TermRecord that cannot be read."""

    revision: Count
    problem: str


class Terms(TypedDict):
    """All leaderships, the newest first."""

    terms: list[TermView | UnreadableTerm]


Switchover = TypedDict("Switchover", {"from": str, "to": str, "term": TermNumber})
"""Leadership was handed over; `term` is the new leader's."""


class SwitchoverRequest(TypedDict):
    """Hand leadership to a standby."""

    to: NotRequired[Annotated[str | None, Keywords(description="a standby; by default the best ranked")]]
    actor: NotRequired[str | None]


class CampaignRequest(TypedDict):
    """From a leader to a standby: take over the term with this revision."""

    revision: int
    actor: str


class Campaign(TypedDict):
    """The takeover that was ordered is done; `term` is the new one."""

    term: TermNumber


class Heartbeat(TypedDict):
    """One line of the leader's heartbeats. `term`: its revision; `stuck_s`: how long the leader has waited for etcd."""

    term: int
    index: int
    stuck_s: float


class DrillRequest(TypedDict):
    """Kill or freeze the leader on purpose."""

    how: Annotated[DrillKind, Keywords(description="kill: end at once; freeze: do nothing for a while")]
    seconds: NotRequired[
        Annotated[
            Annotated[float, Keywords(exclusiveMinimum=0, maximum=FREEZE_MAX_S)] | None,
            Keywords(description="how long to freeze; 3 by default"),
        ]
    ]
    term: NotRequired[
        Annotated[
            Annotated[int, Keywords(minimum=1)] | None,
            Keywords(description="revision of the only term it is meant for"),
        ]
    ]
    actor: NotRequired[str | None]


class Drill(TypedDict):
    """The leader accepted the drill and carries it out a moment after this answer."""

    master: str
    how: DrillKind
    seconds: float
    term: TermNumber


class PauseRequest(TypedDict):
    """Pause takeovers."""

    actor: NotRequired[str | None]
    reason: NotRequired[str | None]


PausedOrNot = TypeAliasType("PausedOrNot", Paused | Empty)
"""The pause; an empty object if takeovers are not paused."""


# --- etcd -----------------------------------------------------------------------------------------------------------


@final
class MemberView(TypedDict):
    """A member of etcd. `version` and `db_bytes` are null if it does not answer."""

    id: str
    name: str
    endpoint: str
    healthy: bool
    leader: bool
    version: str | None
    db_bytes: Count | None
    error: str | None


@final
class SilentEtcd(TypedDict):
    """In place of the members, if etcd did not list them in time."""

    name: str
    endpoint: str
    healthy: bool
    leader: bool
    error: str


class Members(TypedDict):
    """The members of etcd."""

    members: list[MemberView]


# --- nodes ----------------------------------------------------------------------------------------------------------


class DesiredMark(TypedDict):
    """Which desired state a node has, by generation and hash."""

    generation: int
    hash: str


class NodeView(TypedDict):
    """One node: its configuration, its desired state, its status, and whether the status matches the desired state."""

    name: str
    address: str
    position: Annotated[list[int], Keywords(minItems=2, maxItems=2, description="row and column, from 0")] | None
    groups: list[str]
    labels: dict[str, str]
    driver: str | None
    document: JsonObject | None
    desired: DesiredMark | None
    status: Status | None
    alive: Alive | None
    converged: bool
    problem: str | None


class Nodes(TypedDict):
    """All configured nodes, as of `index`."""

    nodes: list[NodeView]
    index: Count


# --- documents and commands -----------------------------------------------------------------------------------------


class DocumentView(TypedDict):
    """A document. `index`: the command that last changed it."""

    index: Count
    document: JsonObject


class Document(DocumentView):
    """One document with its path."""

    path: str


class Documents(TypedDict):
    """Documents by path, as of `index`."""

    index: Count
    documents: dict[str, DocumentView]


@configured(dependentRequired={"id": ["after"]})
class Command(TypedDict):
    """A command of the application."""

    name: Text
    args: NotRequired[JsonObject]
    id: NotRequired[
        Annotated[str, Keywords(minLength=1, maxLength=ID_CHARS_MAX, description="lets it be repeated; needs `after`")]
    ]
    after: NotRequired[Annotated[Count, Keywords(description="with an id: the index known when it was first sent")]]
    actor: NotRequired[str | None]


class Commands(TypedDict):
    """Several commands in one request."""

    commands: Annotated[list[Command], Keywords(minItems=1, maxItems=COMMANDS_MAX)]


class Outcome(TypedDict):
    """A command was committed. `repeated`: an earlier copy with this id had been, and this is its result."""

    id: str
    index: Count
    result: Any
    repeated: bool


class NotCommitted(TypedDict):
    """A command of a list was not committed, and why."""

    id: str
    problem: Problem


class Outcomes(TypedDict):
    """The outcomes of a list of commands, in its order."""

    results: list[Outcome | NotCommitted]
    index: Count


@final
class CommandView(TypedDict):
    """A command of the journal: the stored CommandRecord, and the epoch and term that committed it.

    Fields that have their default value are left out.
    """

    index: Annotated[int, Keywords(minimum=1)]
    id: str
    actor: str
    time: float
    name: str
    args: NotRequired[JsonObject]
    result: NotRequired[Any]
    writes: NotRequired[Annotated[dict[str, JsonObject | None], Keywords(description="path to document; null deletes")]]
    specs: NotRequired[Annotated[dict[str, SpecMark | None], Keywords(description="nodes whose spec this changed")]]
    actions: NotRequired[
        Annotated[dict[str, ActionRequest], Keywords(description="nodes and what they are to do once")]
    ]
    closes: NotRequired[
        Annotated[dict[str, list[int]], Keywords(description="nodes and the indexes of their actions that are over")]
    ]
    config_version: NotRequired[
        Annotated[int, Keywords(description="of the configuration in force; 0: none, or not recorded")]
    ]
    config: NotRequired[ConfigRecord | None]
    config_revision: NotRequired[
        Annotated[int | None, Keywords(description="mod_revision of config/current as adopted")]
    ]
    restore: NotRequired[
        Annotated[str | None, Keywords(description="name of the snapshot whose documents replace all others")]
    ]
    epoch: int
    term: int


@final
class UnreadableCommands(TypedDict):
    """In place of an entry of the journal that cannot be read."""

    index: None
    problem: str


class History(TypedDict):
    """Commands of the journal. `searched`: the last index that was examined."""

    entries: list[CommandView | UnreadableCommands]
    first_retained: Count | None
    index: Count
    searched: Count | None


# --- snapshots ------------------------------------------------------------------------------------------------------


class SnapshotMark(TypedDict):
    """Which snapshot it is."""

    snapshot: str
    name: str | None
    index: Count
    time: float
    bytes: Count


class Snapshot(SnapshotMark):
    """A saved state, with the number of its documents. Those with a `name` are kept until they are deleted."""

    documents: Count


class Snapshots(TypedDict):
    """All snapshots, the newest first."""

    snapshots: list[Snapshot]


class SnapshotContent(SnapshotMark):
    """A snapshot with its documents by path."""

    documents: dict[str, JsonObject]


class SnapshotRequest(TypedDict):
    """Save the state under a name."""

    name: Annotated[str, Keywords(examples=["before-update"])]


class Deleted(TypedDict):
    """The name of the snapshot that was deleted."""

    deleted: str


# --- configuration --------------------------------------------------------------------------------------------------


class AdoptedView(TypedDict):
    """Which configuration is in force, and the index that adopted it."""

    version: Count
    index: Count


class RejectedView(TypedDict):
    """Which configuration the leader rejected, and why. `version` is null if it cannot be read."""

    version: Count | None
    error: str


class ConfigSummary(TypedDict):
    """The configuration, as far as etcd alone shows it.

    `current`: as it was applied last. `version`: the one to compare with when a new one is applied. `problem`: why
    `current` cannot be read.
    """

    current: ConfigRecord | None
    version: Count
    problem: str | None
    adopted: AdoptedView | None
    rejected: RejectedView | None


class Config(ConfigSummary):
    """The configuration as applied and as adopted. `in_force`: the adopted one."""

    in_force: ConfigRecord | None


class ConfigRequest(TypedDict):
    """Apply a configuration."""

    inventory: Inventory
    expect_version: NotRequired[
        Annotated[Count | None, Keywords(description="the version it is meant to follow; 0: none yet")]
    ]
    source: NotRequired[Annotated[str | None, Keywords(description="the YAML text it came from")]]
    actor: NotRequired[str | None]


class ConfigVersion(TypedDict):
    """The version that the applied configuration was given."""

    version: Count


@final
class UnreadableConfig(TypedDict):
    """In place of a ConfigRecord that cannot be read."""

    version: None
    problem: str


class ConfigHistory(TypedDict):
    """The configurations that were applied, the newest first."""

    versions: list[ConfigRecord | UnreadableConfig]


# --- everything -----------------------------------------------------------------------------------------------------


class Overview(TypedDict):
    """The whole cluster, and what is wrong with it."""

    cluster: str
    leader: Leader | None
    masters: list[MasterView]
    members: list[MemberView | SilentEtcd]
    nodes: list[NodeView]
    config: Config
    paused: Paused | None
    index: Count
    problems: list[str]


# --- server-sent events ---------------------------------------------------------------------------------------------


class GoneEvent(TypedDict):
    """The journal is no longer kept from here on, or belongs to another epoch."""

    detail: str


class LeaderEvent(TypedDict):
    """The leader, if it changed; `gone`: ids of leaders that lead no more."""

    leader: list[LiveLeader]
    gone: list[str]


class MastersEvent(TypedDict):
    """Masters that changed; `gone`: ids of those that ended."""

    masters: list[LiveMaster]
    gone: list[str]


class PausedEvent(TypedDict):
    """The pause, if it began or changed; `gone` holds `paused` if it ended."""

    paused: list[Paused]
    gone: list[str]


class NodesEvent(TypedDict):
    """Nodes that changed; `gone`: names of those that the configuration no longer has."""

    nodes: list[NodeView]
    gone: list[str]
