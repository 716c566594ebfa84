"""The models of the values in etcd: frozen pydantic models, each with the schema version `v`.

A model keeps unknown fields, so that an older program does not lose what a newer one wrote. It refuses a newer major
`v`. Times are seconds since the Unix epoch by the writer's clock. They are for people, with two exceptions: times by
the leader's clock decide when a pending action expires, and when a command's id is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from nodesdk.models import NAMED_SECTIONS as NAMED_SECTIONS
from nodesdk.models import SCHEMA_VERSION as SCHEMA_VERSION
from nodesdk.models import Defaults as Defaults
from nodesdk.models import DriverConfig as DriverConfig
from nodesdk.models import GroupConfig as GroupConfig
from nodesdk.models import Inventory as Inventory
from nodesdk.models import Labels as Labels
from nodesdk.models import MasterConfig as MasterConfig
from nodesdk.models import Model as Model
from nodesdk.models import NodeConfig as NodeConfig
from nodesdk.models import Phase as Phase
from nodesdk.models import Spec as Spec
from nodesdk.models import Status as Status
from nodesdk.models import Stored as Stored
from nodesdk.models import StoreMark as StoreMark
from nodestore.errors import Garbage
from nodestore.schema.access_models import AccessControl as AccessControl
from nodestore.schema.access_models import BrowserSession as BrowserSession
from nodestore.schema.access_models import CredentialUse as CredentialUse
from nodestore.schema.access_models import Grant as Grant
from nodestore.schema.access_models import JoinToken as JoinToken
from nodestore.schema.access_models import MoveCode as MoveCode
from nodestore.schema.access_models import Role as Role
from nodestore.schema.host_models import HostActual as HostActual
from nodestore.schema.host_models import HostRecord as HostRecord

_PROBLEM_CHARS_MAX = 300  # a problem's location may contain a name that is as long as the whole value


M = TypeVar("M", bound=BaseModel)


def decode(model: type[M], raw: bytes | str, where: str) -> M:
    """The model in `raw`. Garbage if it is invalid, with `where` and the first problem."""
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise Garbage(f"{where}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """The first problem in one line, with its location and the number of further problems."""
    first = error.errors(include_url=False, include_input=False)[0]
    at = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    text = (at + ": " if at else "") + first["msg"].removeprefix("Value error, ")
    return f"{text[:_PROBLEM_CHARS_MAX]}{more}"


class KeyValue(Protocol):
    """A key and its value in etcd."""

    @property
    def key(self) -> str: ...

    @property
    def value(self) -> bytes: ...


def decode_or_none(model: type[M], found: KeyValue | None) -> M | None:
    """The model in a key's value. None if the key is absent or its value unreadable."""
    return decode_value_or_none(model, None if found is None else found.value)


def decode_value_or_none(model: type[M], value: bytes | None) -> M | None:
    """The model in `value`. None if there is no value, or it is unreadable."""
    if value is None:
        return None
    try:
        return model.model_validate_json(value)
    except ValidationError:
        return None


class Term(NamedTuple):
    """The pair that identifies a term, its fencing token. Terms strictly grow, and compare as pairs."""

    epoch: int
    revision: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.revision}"


# --- leadership -----------------------------------------------------------------------------------------------------


class Epoch(Stored):
    """`epoch`: the incarnation of the store. `nodectl recover` increases it after a backup was restored."""

    epoch: int = Field(ge=1)
    since: float = 0.0
    actor: str = Field(default="", description="who ran `nodectl recover`")
    nonce: str = Field(
        default="", description="identifies that run: shows whether it took effect if etcd's answer was lost"
    )
    bumped: int = Field(default=0, description="by how much etcd's revision was raised when the backup was restored")
    index: int = Field(default=0, description="index of the last command in the backup")
    heir: str = Field(
        default="",
        description="nonce of the masterd whose state in memory begins this epoch, because keys were deleted; it leads "
        "first. Empty: the state is that of journal and snapshots",
    )


Cause = Literal["first", "resigned", "switchover", "expired", "died", "silent", "stuck", "unreadable", "restarted"]
"""Why a takeover was attempted. first: there was no leader. resigned: the leader resigned. switchover: it handed over.
expired: its lease expired. died: its process died. silent: its heartbeats stopped. stuck: it could not commit.
unreadable: `leader` held garbage. restarted: the leader was an earlier process on this PC."""


class LeaderRecord(Stored):
    """`leader`: the leader. Written once in a term, by the takeover; its mod_revision is the term's revision."""

    id: str
    host: str
    urls: tuple[str, ...]
    nonce: str
    since: float
    cause: Cause = "first"
    why: str = Field(default="", description="the cause as a sentence")
    streak: int = Field(default=0, description="number of consecutive takeovers on suspicion, for the back-off")


class TermRecord(Stored):
    """`terms/<nonce>`: one term, for the history. Its create_revision is the term's revision."""

    id: str
    host: str
    nonce: str
    epoch: int
    since: float
    cause: Cause = "first"
    why: str = ""
    ended: str | None = Field(default=None, description="why the term ended, set by a leader that resigned")
    phases: dict[str, float] = Field(
        default_factory=dict,
        description="seconds from the first recorded phase to each: heard (the previous leader's last heartbeat), "
        "challenged (a standby challenged that leader), taken_by_etcd (etcd stored the challenge), suspected, sent "
        "(the takeover), won, caught_up (with the journal), serving, found (by the first client request), first_answer "
        "(to a client); written after the first answer, or without it if none follows soon",
    )
    suspected_by: tuple[str, ...] = Field(
        default=(), description="standbys that had challenged the leader before this term"
    )
    taken_from: str | None = Field(default=None, description="id of the previous leader, if `leader` named one")
    taken_term: int | None = Field(default=None, description="revision of that leader's term")


class RehearsalReport(Model):
    """What a standby found when it derived the specs of all nodes with its own application, without effect."""

    index: int = Field(default=0, description="index of the state from which it derived them")
    nodes: int = Field(default=0, description="number of nodes")
    failed: dict[str, str] = Field(
        default_factory=dict, description="by node, at most 20 of them: why its spec cannot be derived"
    )
    failed_count: int = 0
    differing: tuple[str, ...] = Field(
        default=(), description="nodes that would get another spec if this masterd led, at most 50 of them"
    )
    differing_count: int = 0


class ApplicationOrder(Stored):
    """`application`: an operator's order that another application may lead. It counts while the journal records the
    application `replaces`; the first leader of the new one records itself there."""

    name: str
    replaces: str | None = None
    actor: str = ""
    time: float = 0.0


class Candidate(Stored):
    """`candidates/<id>`: the candidacy of a masterd; attached to its lease."""

    id: str
    host: str
    urls: tuple[str, ...]
    index: int = Field(default=0, description="index of its replica, as it last reported it")
    priority: int = 0
    beside_etcd_leader: bool = Field(default=False, description="whether etcd's leader is on the same PC")
    nonce: str = Field(description="identifies the process: a restarted masterd has another one")
    version: str = ""
    pid: int = 0
    warning: str | None = Field(default=None, description="what will stop it later, such as a certificate that ends")
    application: str = Field(default="", description="name of its application; empty if an older masterd wrote it")
    application_version: str = ""
    commands_hash: str = Field(default="", description="hash of the names and argument schemas of all commands")
    age_s: float = Field(default=0.0, description="age of its state in seconds; 0 if it is less than 5 s")
    problem: str | None = Field(default=None, description="the first problem of this masterd, for the status")
    unfit: str | None = Field(
        default=None, description="why it must not be relied on as a standby: it takes over last, if at all"
    )
    rehearsal: RehearsalReport | None = None
    clock: float | None = Field(
        default=None, description="the wall clock of its PC when it was written, which is at least every 10 s"
    )
    store: StoreMark | None = Field(default=None, description="the store that the masterd remembers")


class Challenge(Stored):
    """`challenges/<id>`: a standby challenges the leader to prove that it can still commit. Attached to its lease."""

    term: int = Field(description="revision of the challenged leader's term")
    nonce: str


class Answer(Stored):
    """`answers/<id>`: the leader's answer to a challenge. Its fenced write proves that the term can still commit."""

    term: int
    nonce: str


class Paused(Stored):
    """`paused`: while this key exists, no standby takes over by itself."""

    actor: str
    time: float
    reason: str = ""

    @property
    def text(self) -> str:
        """The pause and its remedy, for messages."""
        why = f" ({self.reason})" if self.reason else ""
        return f"takeovers are paused by {self.actor}{why}: end the pause with `nodectl master resume`"


# --- journal --------------------------------------------------------------------------------------------------------


class Head(Stored):
    """`head`: the last commit. `nonce` identifies it, so that its writer can determine an unknown outcome."""

    index: int
    nonce: str


def nonce_of(model: type[Head | Answer | Entry], found: KeyValue | None) -> str | None:
    """The nonce in a key's value. None if the key is absent or its value unreadable."""
    decoded = decode_or_none(model, found)
    return None if decoded is None else decoded.nonce


class SpecMark(Model):
    """Identifies a node's spec by its hash and `generation`, which is the index of the command that last changed it."""

    generation: int
    hash: str


class ConfigRecord(Stored):
    """`config/current` and `config/history/<version>`: one version of the configuration, as it was applied."""

    version: int = Field(ge=1)
    actor: str
    time: float
    inventory: dict[str, Any]
    source: str = Field(default="", description="the YAML text it came from, comments included")


class ActionRequest(Model):
    """An action that a command requests of a node. It begins at most once, even if programs or PCs restart."""

    name: str = Field(description="restart, reboot, or an action of the node's driver")
    args: dict[str, Any] = Field(default_factory=dict)
    expires: float = Field(default=0.0, description="latest time to begin, by the leader's clock")


class CommandRecord(Model):
    """One command in the journal: its request, its result, and everything that it changed."""

    index: int = Field(ge=1)
    id: str
    actor: str
    time: float
    name: str
    args: dict[str, Any] = Field(default_factory=dict)
    result: Any = None
    writes: dict[str, dict[str, Any] | None] = Field(default_factory=dict, description="path to document; null deletes")
    specs: dict[str, SpecMark | None] = Field(default_factory=dict, description="by node: its new spec; null: none")
    actions: dict[str, ActionRequest] = Field(
        default_factory=dict, description="by node: the action that it must run once"
    )
    closes: dict[str, tuple[int, ...]] = Field(
        default_factory=dict, description="by node: the indexes of its actions that have ended, in any way"
    )
    config_version: int = Field(default=0, description="version of the configuration in force; 0: none or not recorded")
    config: ConfigRecord | None = Field(default=None, description="the configuration adopted with this entry")
    config_revision: int | None = Field(default=None, description="mod_revision of config/current at its adoption")
    restore: str | None = Field(default=None, description="name of the snapshot whose documents replace all documents")
    time_shift: float | None = Field(
        default=None,
        description="`time.reset`: seconds added to the cluster's time, which becomes `time`, and to pending deadlines",
    )
    address: str = Field(default="", description="the IP address that it came from, if the sender had a credential")
    on_behalf_of: str = Field(default="", description="for whom the sender said that it acted; not verified")


def affects_node(command: Mapping[str, Any], node: str) -> bool:
    """Whether a command, given as JSON, changed this node's spec, requested an action of it, or closed one."""
    return any(node in (command.get(field) or {}) for field in ("specs", "actions", "closes"))


class Entry(Stored):
    """`journal/<last index>`: one commit, which holds a batch of commands."""

    epoch: int
    term: int = Field(description="revision of its writer's term")
    nonce: str
    commands: tuple[CommandRecord, ...] = Field(min_length=1)
    floor: int | None = Field(
        default=None,
        ge=0,
        description="command ids up to this index are no longer remembered from this entry on; null in entries of old "
        "versions: each replica then forgets by age and number",
    )
    application: str | None = Field(
        default=None,
        description="name of the leader's application, if the journal did not record it before",
    )

    @model_validator(mode="after")
    def _indexes_without_gap(self) -> Self:
        first = self.commands[0].index
        if any(command.index != first + offset for offset, command in enumerate(self.commands)):
            raise ValueError("the indexes of its commands have a gap")
        return self

    @property
    def first(self) -> int:
        return self.commands[0].index

    @property
    def last(self) -> int:
        return self.commands[-1].index


class Applied(Stored):
    """`applied`: the index up to which the views are written.

    The views are written in the order of their keys. Those up to and including the key `through` show the state at
    `index`, and those after it the state at `base`. Once all views show the state at `index`, `through` is null and
    `base` equals `index`.
    """

    index: int
    base: int
    through: str | None = None
    epoch: int = Field(default=1, description="the leader's epoch; in a new one, every desired/<node> is rewritten")


class Manifest(Stored):
    """`snapshots/<index>-<nonce>/manifest`: describes a snapshot. Written last: without it a snapshot is incomplete."""

    index: int
    nonce: str
    chunks: int
    size_bytes: int
    sha256: str = Field(description="over the chunks' bytes in order")
    time: float
    epoch: int
    documents: int
    name: str | None = Field(default=None, description="a snapshot with a name is kept until it is deleted")
    has_ids: bool = Field(default=True, description="whether it holds the ids of commands; named ones hold none")


class DocumentView(Stored):
    """`state/<path>`: the view of one document, for readers of etcd."""

    index: int = Field(description="index of the command that last changed it")
    document: dict[str, Any]


# --- nodes ----------------------------------------------------------------------------------------------------------


class Desired(Stored):
    """`desired/<node>`: the desired state of a node.

    Its order is (epoch, term, generation). noded ignores a desired state of lower order than one that it has accepted.
    """

    epoch: int
    term: int
    generation: int
    spec: Spec
    secret_fields: tuple[str, ...] = Field(
        default=(), description="marks of secret fields, for what noded logs and reports; absent if there are none"
    )

    @property
    def order(self) -> tuple[int, int, int]:
        return (self.epoch, self.term, self.generation)


class Action(ActionRequest):
    """A pending action. `index`: the index of its command, which requests at most one action of each node."""

    index: int = Field(ge=1)
    epoch: int = Field(default=1, description="the store's epoch when it was requested")
    actor: str = ""
    time: float = 0.0


class Actions(Stored):
    """`actions/<node>`: the node's pending actions, in their order. A view; absent if there are none."""

    epoch: int
    term: int
    pending: tuple[Action, ...] = ()


ActionState = Literal["started", "done", "failed", "lost"]
"""State of an action that began. lost: noded ended while the action ran, so its effect is unknown."""


class ActionResult(Model):
    """The result of one action. Written as `started` before the action begins, so that it never begins twice."""

    index: int = Field(ge=1)
    name: str
    state: ActionState
    result: Any = None
    error: str | None = None
    nonce: str = Field(description="nonce of the noded that began it")
    boot: str = Field(default="", description="id of the PC's boot in which it began")
    started: float = 0.0
    ended: float | None = None


class Acted(Stored):
    """`acted/<node>`: the actions that the node has begun, with the results of those that are not closed yet.

    noded writes it before an action begins, in a transaction that compares its own `alive`, `actions/<node>` and
    `epoch`. The key is kept if the node is removed. No action with an index up to `floor` begins any more. This is not
    the floor of command ids.
    """

    node: str
    epoch: int
    floor: int = 0
    results: tuple[ActionResult, ...] = ()


class Alive(Stored):
    """`alive/<node>`: the claim of the noded that drives this node; attached to its lease."""

    host_id: str
    nonce: str
    host: str
    pid: int = 0
    since: float = 0.0
    boot: str = Field(default="", description="the kernel's id of this boot; empty if there is none")
    replaced: int = Field(
        default=0, description="how many nodeds in a row took the claim from one that had just begun and still held it"
    )


class Waiting(Stored):
    """`waiting/<node>/<nonce>`: a noded that drives nothing, because another host holds the claim of this node.

    Attached to its lease. Only information: nothing depends on it.
    """

    host_id: str
    nonce: str
    host: str
    pid: int = 0
    since: float = 0.0


MODELS: tuple[type[Stored], ...] = (
    Epoch, LeaderRecord, TermRecord, Candidate, Challenge, Answer, Paused, Head, Entry, Applied, Manifest, DocumentView,
    Desired, Alive, Waiting, Status, Actions, Acted, ConfigRecord, Inventory, ApplicationOrder, AccessControl, Grant,
    JoinToken, CredentialUse, BrowserSession, MoveCode, HostRecord, HostActual,
)  # fmt: skip
"""The models of all keys' values, which are published as JSON Schemas."""
