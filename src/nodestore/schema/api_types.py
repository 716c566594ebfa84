"""The types of all requests and answers of the HTTP API.

masterd builds its answers as these types, the client reads them as these types, and the OpenAPI document is generated
from them under the same names. An answer may hold more fields than its type: programs ignore unknown fields.
An older masterd omits fields that were added later: a client reads those with `get`.
If a list holds items of two types, both are `final`, so that a type checker can narrow by `"problem" in item`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, final, get_args

from typing_extensions import TypeAliasType, TypedDict

from nodesdk.names import PATTERN as NAME_PATTERN
from nodestore.schema.json_schema import Keywords, StoredModel, configured
from nodestore.schema.limits import ACTOR_BYTES_MAX, COMMAND_NAME_BYTES_MAX, ID_CHARS_MAX, TEXT_BYTES_MAX

INDEX_MAX = 10**16 - 1
"""The largest index: the journal's keys have sixteen digits."""
COMMANDS_MAX = 256
"""The maximum number of commands in one request."""
FREEZE_MAX_S = 10.0
"""The longest time for which a drill may freeze the leader, in seconds."""

Consistency = Literal["linearizable", "local"]
Role = Literal["leader", "standby"]
RoleName = Literal["viewer", "operator", "maintainer", "admin"]
DrillKind = Literal["kill", "freeze"]
DRILLS: tuple[DrillKind, ...] = get_args(DrillKind)

Count = Annotated[int, Keywords(minimum=0)]
Text = Annotated[str, Keywords(minLength=1)]
# JSON Schema counts characters, and masterd counts bytes: a text of other characters than ASCII may be refused earlier.
LimitedText = Annotated[str, Keywords(minLength=1, maxLength=TEXT_BYTES_MAX)]
Actor = Annotated[
    Annotated[str, Keywords(maxLength=ACTOR_BYTES_MAX)] | None,
    Keywords(description=f"the author, at most {ACTOR_BYTES_MAX} bytes in UTF-8; by default anonymous"),
]
Reason = Annotated[
    Annotated[str, Keywords(maxLength=TEXT_BYTES_MAX)] | None,
    Keywords(description=f"at most {TEXT_BYTES_MAX} bytes in UTF-8"),
]
JsonObject = dict[str, Any]

Cause = Annotated[str, StoredModel("Cause")]
SpecMark = Annotated[JsonObject, StoredModel("SpecMark")]
ActionRequest = Annotated[JsonObject, StoredModel("ActionRequest")]
ConfigRecord = Annotated[JsonObject, StoredModel("ConfigRecord")]
Inventory = Annotated[JsonObject, StoredModel("Inventory")]
Paused = Annotated[JsonObject, StoredModel("Paused")]
Status = Annotated[JsonObject, StoredModel("Status")]
ApplicationOrder = Annotated[JsonObject, StoredModel("ApplicationOrder")]
RehearsalReport = Annotated[JsonObject, StoredModel("RehearsalReport")]
StoreMark = Annotated[JsonObject, StoredModel("StoreMark")]
AccessControl = Annotated[JsonObject, StoredModel("AccessControl")]
Alive = Annotated[JsonObject, StoredModel("Alive")]


# --- errors and small answers ---------------------------------------------------------------------------------------


class Problem(TypedDict):
    """A problem document (RFC 9457). Programs decide by `code`; `detail` is for people."""

    type: str
    title: str
    status: Count
    detail: str
    code: str
    leader_url: NotRequired[str]
    retry_after_s: NotRequired[float]


@configured(extra="forbid")
class Empty(TypedDict):
    """An empty object."""


class Health(TypedDict):
    """The role of a masterd, and the index of its replica."""

    id: str
    role: Role
    index: Count
    problem: str | None
    store: NotRequired[StoreMark | None]


class TermNumber(TypedDict):
    """The number of a term, which is its fencing token. `epoch` is null while this masterd does not know it."""

    epoch: Count | None
    revision: Count


# --- masters and leadership -----------------------------------------------------------------------------------------


class LiveLeader(TypedDict):
    """The leader, as the stream /v1/cluster/watch reports it."""

    id: str
    url: str
    term: TermNumber
    since: float
    cause: str
    why: str


class LeaderSummary(LiveLeader):
    """The leader, from the key `leader` in etcd."""

    host: str
    urls: list[str]


class Leader(LeaderSummary):
    """The leader, and when and why it took over. `index`: the index of the replica of the masterd that answers."""

    nonce: str
    index: Count


class LiveMaster(TypedDict):
    """A candidate without its index. The index is left out because it changes with every command."""

    id: str
    host: str
    url: str
    role: Role
    priority: Count
    version: str
    pid: Count
    application: NotRequired[Annotated[str, Keywords(description="empty if an older masterd runs there")]]
    application_version: NotRequired[str]
    unfit: NotRequired[Annotated[str | None, Keywords(description="why it should not lead; null if it is fit")]]


class MasterView(LiveMaster):
    """A candidate. `index`: the index of its replica, as it last reported it."""

    index: Count
    age_s: NotRequired[Annotated[float, Keywords(description="age of its state in seconds; 0 if below 5 s")]]
    problem: NotRequired[str | None]


class Masters(TypedDict):
    """All candidates."""

    masters: list[MasterView]


@final
class TermView(TypedDict):
    """One term: the stored TermRecord, and the term's revision."""

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
    """Replaces a TermRecord that cannot be read."""

    revision: Count
    problem: str


class Terms(TypedDict):
    """All terms, the newest first."""

    terms: list[TermView | UnreadableTerm]


class MasterApplication(TypedDict):
    """The application of one masterd, and what its last rehearsal of a takeover has found; null if there is none."""

    id: str
    role: Role
    application: str
    application_version: str
    commands_hash: str
    unfit: str | None
    rehearsal: RehearsalReport | None


class Application(TypedDict):
    """The application that the journal records, an operator's order to adopt another one, which of them counts, and
    what each masterd runs. `order` and `in_force` are null if there is none."""

    recorded: str | None
    order: ApplicationOrder | None
    in_force: str | None
    masters: list[MasterApplication]


class AdoptRequest(TypedDict):
    """Adopt the application `name`: from then on only masterds that run it take over."""

    name: LimitedText
    actor: NotRequired[Actor]


Switchover = TypedDict("Switchover", {"from": str, "to": str, "term": TermNumber})
"""Leadership was handed over; `term` is the new leader's."""


class SwitchoverRequest(TypedDict):
    """Hand leadership to a standby."""

    to: NotRequired[
        Annotated[
            Annotated[str, Keywords(maxLength=TEXT_BYTES_MAX)] | None,
            Keywords(description="a standby; by default the best ranked"),
        ]
    ]
    actor: NotRequired[Actor]


class CampaignRequest(TypedDict):
    """The leader's request that a standby take over from the term with this revision."""

    revision: int
    actor: Annotated[str, Keywords(maxLength=ACTOR_BYTES_MAX)]


class Campaign(TypedDict):
    """The requested takeover succeeded; `term` is the term that it began."""

    term: TermNumber


class Heartbeat(TypedDict):
    """One heartbeat of the leader. `term`: its term's revision. `stuck_s`: the seconds that it has waited for etcd."""

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
            Keywords(description="revision of the term that the drill is restricted to"),
        ]
    ]
    actor: NotRequired[Actor]


class Drill(TypedDict):
    """The leader accepted the drill, and carries it out right after this answer."""

    master: str
    how: DrillKind
    seconds: float
    term: TermNumber


class PauseRequest(TypedDict):
    """Pause takeovers."""

    actor: NotRequired[Actor]
    reason: NotRequired[Reason]


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
    """Replaces the members if etcd did not list them in time."""

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
    """The generation and hash of a node's desired state."""

    generation: int
    hash: str


class NodeSpec(TypedDict):
    """What a node must be: the driver, its effective settings, and the effective document, with secrets masked."""

    driver: str
    settings: JsonObject
    document: JsonObject


class NodeView(TypedDict):
    """One node: its configuration, desired state and status, and whether it has converged.

    `spec` is null unless the request has `spec=true`. It is null too if the node has nothing to run, or if etcd did not
    answer in time.
    """

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
    waiting: list[str]
    converged: bool
    problem: str | None
    spec: NodeSpec | None


class Nodes(TypedDict):
    """All configured nodes, as of `index`."""

    nodes: list[NodeView]
    index: Count


class LogPiece(TypedDict):
    """A piece of a program's log: whole lines, as far as possible.

    `position`: pass it as `after` to read the next piece, at any masterd. `at_end`: there was no more when it was read.
    `note`: what the reader must know, such as that lines may be missing before this piece; else empty.
    """

    text: str
    position: Text
    at_end: bool
    note: str


class NodeLog(LogPiece):
    """A piece of the log of the program that a node runs."""

    node: str


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

    name: Annotated[str, Keywords(minLength=1, maxLength=COMMAND_NAME_BYTES_MAX)]
    args: NotRequired[JsonObject]
    id: NotRequired[
        Annotated[str, Keywords(minLength=1, maxLength=ID_CHARS_MAX, description="makes a repeat safe; needs `after`")]
    ]
    after: NotRequired[Annotated[Count, Keywords(description="with an id: the index known when it was first sent")]]
    actor: NotRequired[Actor]
    on_behalf_of: NotRequired[
        Annotated[Actor, Keywords(description="for whom the sender acts; recorded with the command, not verified")]
    ]


class Commands(TypedDict):
    """Several commands in one request."""

    commands: Annotated[list[Command], Keywords(minItems=1, maxItems=COMMANDS_MAX)]


class CommandInfo(TypedDict):
    """A command that the application has. `arguments`: the JSON Schema of its arguments."""

    name: str
    help: str
    quick: bool
    arguments: JsonObject


class CommandList(TypedDict):
    """The commands that the application of the masterd that answers has, by name."""

    application: str
    commands: list[CommandInfo]


class Outcome(TypedDict):
    """A committed command. `repeated`: the request is a repeat, and `result` is the result of the first request."""

    id: str
    index: Count
    result: Any
    repeated: bool


class NotCommitted(TypedDict):
    """A command of a list that was refused, or whose outcome is unknown. `problem`: the error."""

    id: str
    problem: Problem


class Outcomes(TypedDict):
    """The outcomes of a list of commands, in its order."""

    results: list[Outcome | NotCommitted]
    index: Count


class OutcomeRequest(TypedDict):
    """The question what became of a command. If the id is unknown, it is closed, so that the command never runs."""

    id: Annotated[str, Keywords(minLength=1, maxLength=ID_CHARS_MAX)]
    after: Annotated[Count, Keywords(description="the `after` with which the command was sent, or a smaller index")]
    actor: NotRequired[Actor]


class SettledOutcome(TypedDict):
    """What became of a command, for good.

    `took_effect`: if false, it has had no effect and no copy of it ever will. `index`: of the command, or of the entry
    that closed its id. `result`: null unless `result_kept`.
    """

    id: str
    took_effect: bool
    index: Count
    result: Any
    result_kept: bool


@final
class CommandView(TypedDict):
    """A command of the journal: the stored CommandRecord, and the epoch and term that committed it.

    Fields that have their default value are omitted.
    """

    index: Annotated[int, Keywords(minimum=1)]
    id: str
    actor: str
    time: float
    name: str
    args: NotRequired[JsonObject]
    result: NotRequired[Any]
    writes: NotRequired[Annotated[dict[str, JsonObject | None], Keywords(description="path to document; null deletes")]]
    specs: NotRequired[Annotated[dict[str, SpecMark | None], Keywords(description="by node: its new spec; null: none")]]
    actions: NotRequired[
        Annotated[dict[str, ActionRequest], Keywords(description="by node: the action that it must run once")]
    ]
    closes: NotRequired[
        Annotated[dict[str, list[int]], Keywords(description="by node: the indexes of its actions that have ended")]
    ]
    config_version: NotRequired[
        Annotated[int, Keywords(description="version of the configuration in force; 0: none or not recorded")]
    ]
    config: NotRequired[ConfigRecord | None]
    config_revision: NotRequired[
        Annotated[int | None, Keywords(description="mod_revision of config/current at its adoption")]
    ]
    restore: NotRequired[
        Annotated[str | None, Keywords(description="name of the snapshot whose documents replace all documents")]
    ]
    time_shift: NotRequired[
        Annotated[float | None, Keywords(description="`time.reset`: seconds added to the cluster's time")]
    ]
    address: NotRequired[Annotated[str, Keywords(description="the IP address that it came from")]]
    on_behalf_of: NotRequired[
        Annotated[str, Keywords(description="for whom the sender said that it acted; not verified")]
    ]
    epoch: int
    term: int


@final
class UnreadableCommands(TypedDict):
    """Replaces the commands of a journal entry that cannot be read."""

    index: None
    problem: str


class History(TypedDict):
    """Commands of the journal. `searched`: the last index that was examined. `ended`: nothing beyond it can match."""

    entries: list[CommandView | UnreadableCommands]
    first_retained: Count | None
    index: Count
    searched: Count | None
    ended: bool


# --- access control -------------------------------------------------------------------------------------------------


class WhoAmI(TypedDict):
    """The principal of the request.

    `principal`: its name in the history, such as `token:anna`; `anyone` without access control. `may`: the routes that
    it may use. `commands`, `groups`: its limits; empty if there are none. `browser_session`: whether the cookie of a
    browser session is its credential.
    """

    principal: str
    role: RoleName | None
    commands: list[str]
    groups: list[str]
    ends: float | None
    address: str
    access_control: bool
    may: list[str]
    browser_session: NotRequired[bool]
    refusal: Annotated[str | None, Keywords(description="why it may not send the command in the query; null if it may")]


class LoginRequest(TypedDict):
    """Begin a browser session: with a token; or with a code that another master has made for this address."""

    token: NotRequired[Text]
    code: NotRequired[Text]


class Login(TypedDict):
    """A browser session has begun. The header `Set-Cookie` holds its cookie.

    `ends`: when it ends at the latest, as seconds since 1970. `idle_s`: it ends after so many seconds without a
    request.
    """

    principal: str
    role: RoleName
    ends: float
    idle_s: float


class LogoutRequest(TypedDict):
    """End this browser session at all masters. `all`: end every session of the same token, also in other browsers."""

    all: NotRequired[Annotated[bool, Keywords(default=False)]]


class MoveRequest(TypedDict):
    """Take this browser session to another master."""

    master: Text


class Move(TypedDict):
    """Open `url`: the page there exchanges the code in it for a cookie of that address. It works once, for `ends_s`."""

    url: str
    code: str
    ends_s: float


class TokenView(TypedDict):
    """A token, or the role of a certificate `CN=operator:<name>`.

    `last_used`: when a master last received a request with it, as far as that is written: some minutes ago at most;
    null if it was not used. `last_address`: from which IP address.
    """

    id: Text
    name: Text
    kind: Literal["token", "certificate"]
    role: RoleName
    commands: list[str]
    groups: list[str]
    actor: str
    time: float
    ends: float | None
    last_used: NotRequired[float | None]
    last_address: NotRequired[str]


class Tokens(TypedDict):
    """All tokens and the roles of certificates."""

    tokens: list[TokenView]


class TokenRequest(TypedDict):
    """Create a token, or give a role to the holder of a certificate.

    `id` and `hash`: of a token that the client has made itself, so that no other program sees its secret, and a repeat
    of the request makes no second token. Without them the master makes it.
    """

    name: Text
    role: RoleName
    kind: NotRequired[Annotated[Literal["token", "certificate"], Keywords(default="token")]]
    lasts_s: NotRequired[Annotated[float | None, Keywords(description="seconds until it ends; null: it has no end")]]
    commands: NotRequired[list[str] | None]
    groups: NotRequired[list[str] | None]
    id: NotRequired[Annotated[str, Keywords(pattern="^[0-9a-f]{16}$")]]
    hash: NotRequired[Annotated[str, Keywords(pattern="^[0-9a-f]{64}$")]]


class NewToken(TokenView):
    """A new token. `token` is shown only here; null for the role of a certificate, and if the client has made it."""

    token: str | None


class JoinUseView(TypedDict):
    """One use of a join token: by whom, when, and from which address."""

    by: str
    time: float
    address: str


class JoinTokenView(TypedDict):
    """A join token: with it, PCs or a person get certificates of the cluster. `name`: the only name that it is for."""

    id: Text
    kind: Literal["node", "host", "operator"]
    name: str
    uses: Count
    uses_left: Count
    used: list[JoinUseView]
    actor: str
    time: float
    ends: float


class JoinTokens(TypedDict):
    """All join tokens, also those that have ended or are used up, for 30 days after their end."""

    join_tokens: list[JoinTokenView]


class JoinTokenRequest(TypedDict):
    """Record a join token that the client has made. `hash`: SHA-256 of its secret. A repeat changes nothing."""

    id: Annotated[str, Keywords(pattern="^[0-9a-f]{16}$")]
    hash: Annotated[str, Keywords(pattern="^[0-9a-f]{64}$")]
    kind: Literal["node", "host", "operator"]
    uses: Annotated[int, Keywords(minimum=1, maximum=100)]
    lasts_s: Annotated[float, Keywords(description="seconds until it ends, at most a year")]
    name: NotRequired[Annotated[str | None, Keywords(description="the only name that it is for; empty: any")]]


class AuditEntry(TypedDict):
    """An event of the audit log of one masterd.

    `event`: `refused`, `login`, `browser login`, `browser move`, `browser logout`, `maintained` (a request for which
    the role maintainer is needed), `token created`, `token revoked`, `join token created`, `join token revoked`,
    `access control on` or `access control off`. `count`: how many equal events there were in the same second.
    """

    time: float
    event: str
    principal: str
    address: str
    request: str
    detail: str
    count: Count


class Audit(TypedDict):
    """The newest entries of the audit log of one masterd, oldest first."""

    master: str
    entries: list[AuditEntry]


class AccessRequest(TypedDict):
    """Switch access control on or off."""

    enabled: bool


# --- snapshots ------------------------------------------------------------------------------------------------------


class SnapshotMark(TypedDict):
    """Identifies a snapshot."""

    snapshot: str
    name: str | None
    index: Count
    time: float
    bytes: Count


class Snapshot(SnapshotMark):
    """A snapshot, with the number of its documents. A snapshot with a `name` is kept until it is deleted."""

    documents: Count


class Snapshots(TypedDict):
    """All snapshots, the newest first."""

    snapshots: list[Snapshot]


class SnapshotContent(SnapshotMark):
    """A snapshot with its documents by path."""

    documents: dict[str, JsonObject]


class SnapshotRequest(TypedDict):
    """Take a snapshot with a name."""

    name: Annotated[str, Keywords(pattern=f"^{NAME_PATTERN}$", examples=["before-update"])]


class Deleted(TypedDict):
    """The name of the snapshot that was deleted."""

    deleted: str


# --- configuration --------------------------------------------------------------------------------------------------


class AdoptedView(TypedDict):
    """The version of the configuration in force, and the index of the command that adopted it."""

    version: Count
    index: Count


class RejectedView(TypedDict):
    """The version that the leader rejected, and why. `version` is null if the configuration is unreadable."""

    version: Count | None
    error: str


class ConfigSummary(TypedDict):
    """The configuration, from the keys in etcd.

    `current`: the configuration that was applied last. `version`: the version that a request to apply the next one must
    give as `expect_version`, if it gives any. `problem`: the reason why `current` cannot be read.
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
        Annotated[Count | None, Keywords(description="the version that must be current; 0: none yet")]
    ]
    source: NotRequired[Annotated[str | None, Keywords(description="the YAML text it came from")]]
    actor: NotRequired[Actor]


class ConfigVersion(TypedDict):
    """The version of the configuration that was applied."""

    version: Count


@final
class UnreadableConfig(TypedDict):
    """Replaces a ConfigRecord that cannot be read."""

    version: None
    problem: str


class ConfigHistory(TypedDict):
    """The configurations that were applied, the newest first."""

    versions: list[ConfigRecord | UnreadableConfig]


# --- everything -----------------------------------------------------------------------------------------------------


class Overview(TypedDict):
    """The whole cluster, and its problems as text."""

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
    """The journal entries that the stream needs next were truncated, or belong to another epoch."""

    detail: str


class LeaderEvent(TypedDict):
    """The leader, if it changed. `gone`: ids of former leaders."""

    leader: list[LiveLeader]
    gone: list[str]


class MastersEvent(TypedDict):
    """Masters that changed. `gone`: ids of those whose candidacy ended."""

    masters: list[LiveMaster]
    gone: list[str]


class PausedEvent(TypedDict):
    """The pause, if it began or changed. If it ended, `gone` holds the text `paused`."""

    paused: list[Paused]
    gone: list[str]


class NodesEvent(TypedDict):
    """Nodes that changed. `gone`: names of nodes that were removed from the configuration."""

    nodes: list[NodeView]
    gone: list[str]
