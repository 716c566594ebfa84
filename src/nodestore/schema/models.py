"""What the keys hold: frozen pydantic models, each with the schema version `v`.

Unknown fields are kept, so that an older program passes on what a newer one wrote; a newer major `v` is refused.
Times are seconds since the Unix epoch by the writer's clock: for people, never for decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from nodestore.errors import Garbage, Invalid
from nodestore.schema.keys import check_name

SCHEMA_VERSION = 1
_PROBLEM_CHARS_MAX = 300  # a place in garbage may have a name as long as all of it


_set_attribute = object.__setattr__  # past `frozen`


class Model(BaseModel):
    """Frozen; keeps fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="allow")
    _field_names: ClassVar[set[str]]

    def encode(self) -> bytes:
        return self.model_dump_json().encode()

    @classmethod
    def build_unchecked(cls, fields: dict[str, Any], extra: dict[str, Any] | None = None) -> Self:
        """An instance with these values, which must be right and all there: nothing is checked, no default filled in.

        What `model_construct` does, at a tenth of its cost: it is on the way of every command.
        """
        made = cls.__new__(cls)
        _set_attribute(made, "__dict__", fields)
        _set_attribute(made, "__pydantic_fields_set__", cls._field_names)
        _set_attribute(made, "__pydantic_extra__", {} if extra is None else extra)
        _set_attribute(made, "__pydantic_private__", None)
        return made

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        cls._field_names = set(cls.model_fields)


class Stored(Model):
    """A value under a key of ours."""

    v: int = Field(default=SCHEMA_VERSION, strict=True, description="schema version (major)")

    @model_validator(mode="before")
    @classmethod
    def _refuse_newer(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("v"), int) and data["v"] > SCHEMA_VERSION:
            raise ValueError(
                f"written with schema version {data['v']}, this program reads up to {SCHEMA_VERSION}: upgrade it"
            )
        return data


M = TypeVar("M", bound=BaseModel)


def decode(model: type[M], raw: bytes | str, where: str) -> M:
    """The model in `raw`; Garbage with the key's name and the first thing that is wrong otherwise."""
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise Garbage(f"{where}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, as one line with its place, and how many more there are."""
    first = error.errors(include_url=False, include_input=False)[0]
    at = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    text = (at + ": " if at else "") + first["msg"].removeprefix("Value error, ")
    return f"{text[:_PROBLEM_CHARS_MAX]}{more}"


class KeyValue(Protocol):
    """A key and its value, as etcd has them."""

    @property
    def key(self) -> str: ...

    @property
    def value(self) -> bytes: ...


def decode_or_none(model: type[M], found: KeyValue | None) -> M | None:
    """The model in a key's value; None if the key is absent, or its value unreadable."""
    if found is None:
        return None
    try:
        return decode(model, found.value, found.key)
    except Garbage:
        return None


class Term(NamedTuple):
    """The fencing token: strictly grows with each leadership, and compares as a pair."""

    epoch: int
    revision: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.revision}"


# --- leadership -----------------------------------------------------------------------------------------------------


class Epoch(Stored):
    """`epoch`: the incarnation of the store; grows when a backup is restored."""

    epoch: int = Field(ge=1)
    since: float = 0.0
    actor: str = Field(default="", description="who ran `nodectl recover`")
    nonce: str = Field(default="", description="of that run: whether it landed, when its answer was lost")
    bumped: int = Field(default=0, description="by how much etcd's revision was raised when the backup was restored")
    index: int = Field(default=0, description="of the last command in the backup")


Cause = Literal["first", "resigned", "switchover", "expired", "died", "silent", "stuck", "unreadable", "restarted"]
"""Why a takeover was tried: nobody led before; the leader gave way; was told to; its lease ran out; its process died;
it fell silent; it could not commit; `leader` held garbage; the leader was this PC's own earlier process."""


class LeaderRecord(Stored):
    """`leader`: who leads. Written once a term, by the takeover; its mod_revision is the term's revision."""

    id: str
    host: str
    urls: tuple[str, ...]
    nonce: str
    since: float
    cause: Cause = "first"
    why: str = Field(default="", description="the same as a sentence")
    streak: int = Field(default=0, description="takeovers on mere suspicion in a row, for the back-off")


class TermRecord(Stored):
    """`terms/<nonce>`: one leadership, for the history. Its create_revision is the term's revision."""

    id: str
    host: str
    nonce: str
    epoch: int
    since: float
    cause: Cause = "first"
    why: str = ""
    ended: str | None = Field(default=None, description="set by a leader that resigned: how its term ended")
    phases: dict[str, float] = Field(
        default_factory=dict,
        description="seconds from when the leader before was last heard to: challenged, taken_by_etcd, suspected, "
        "sent, won, caught_up, serving, found (by a client), first_answer; written once the term serves",
    )
    suspected_by: tuple[str, ...] = Field(default=(), description="standbys that had challenged the leader before")
    taken_from: str | None = Field(default=None, description="id of the leader before, if there was one in the key")
    taken_term: int | None = Field(default=None, description="that leader's term revision")


class Candidate(Stored):
    """`candidates/<id>`: a masterd that could lead; hangs on its lease."""

    id: str
    host: str
    urls: tuple[str, ...]
    index: int = Field(default=0, description="how far its replica was when it last said so")
    priority: int = 0
    beside_etcd_leader: bool = Field(default=False, description="whether etcd's leader is on this PC too")
    nonce: str = Field(description="of this process: a restarted masterd has another")
    version: str = ""
    pid: int = 0


class Challenge(Stored):
    """`challenges/<id>`: a standby asks the leader of this term whether it can still write. Hangs on its lease."""

    term: int = Field(description="mod_revision of `leader` as the challenged one won it")
    nonce: str


class Answer(Stored):
    """`answers/<id>`: the leader's echo, written fenced: proof that its term still commits."""

    term: int
    nonce: str


class Paused(Stored):
    """`paused`: while it exists nobody takes over by itself."""

    actor: str
    time: float
    reason: str = ""


# --- journal --------------------------------------------------------------------------------------------------------


class Head(Stored):
    """`head`: the last commit. `nonce` is that commit's own, so an unknown outcome can be told."""

    index: int
    nonce: str


def nonce_of(model: type[Head | Answer], found: KeyValue | None) -> str | None:
    """The nonce in a key's value; None if the key is absent, or its value unreadable."""
    decoded = decode_or_none(model, found)
    return None if decoded is None else decoded.nonce


class SpecMark(Model):
    """What a node's desired spec is known by: the index of the command that last changed it, and its hash."""

    generation: int
    hash: str


class ConfigRecord(Stored):
    """`config/current` and `config/history/<version>`: an inventory as somebody applied it."""

    version: int = Field(ge=1)
    actor: str
    time: float
    inventory: dict[str, Any]
    source: str = Field(default="", description="the YAML text it came from, comments included")


class ActionRequest(Model):
    """A one-shot action that a command asks of a node: begun at most once, whatever restarts meanwhile."""

    name: str = Field(description="restart, reboot, or one of the node's driver")
    args: dict[str, Any] = Field(default_factory=dict)
    expires: float = Field(default=0.0, description="by the leader's clock; not begun later than this")


class CommandRecord(Model):
    """One command in the journal: who asked for what, what came of it, and the documents it wrote."""

    index: int = Field(ge=1)
    id: str
    actor: str
    time: float
    name: str
    args: dict[str, Any] = Field(default_factory=dict)
    result: Any = None
    writes: dict[str, dict[str, Any] | None] = Field(default_factory=dict, description="path to document; null deletes")
    specs: dict[str, SpecMark | None] = Field(default_factory=dict, description="nodes whose spec this changed")
    actions: dict[str, ActionRequest] = Field(default_factory=dict, description="nodes and what they are to do once")
    closes: dict[str, tuple[int, ...]] = Field(
        default_factory=dict, description="nodes and the actions, by index, that are over: done, failed or given up"
    )
    config_version: int = Field(default=0, description="of the configuration in force; 0: none, or not recorded")
    config: ConfigRecord | None = Field(default=None, description="the configuration adopted with this entry")
    config_revision: int | None = Field(default=None, description="mod_revision of config/current as adopted")
    restore: str | None = Field(default=None, description="name of the snapshot whose documents replace all others")


def affects_node(command: Mapping[str, Any], node: str) -> bool:
    """Whether a command, as told in JSON, changed what this node must be, or asked it for an action, or ended one."""
    return any(node in (command.get(field) or {}) for field in ("specs", "actions", "closes"))


class Entry(Stored):
    """`journal/<last index>`: one commit, a batch of commands."""

    epoch: int
    term: int = Field(description="mod_revision of `leader` as its writer won it")
    nonce: str
    commands: tuple[CommandRecord, ...] = Field(min_length=1)

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
    """`applied`: how far the views are.

    All views are as of `index` up to and including key `through`; beyond it they are as of `base`.
    `through` is null once all views are as of `index` (then base equals index).
    """

    index: int
    base: int
    through: str | None = None
    epoch: int = Field(default=1, description="the epoch whose first leader last rewrote every desired/<node>")


class Manifest(Stored):
    """`snapshots/<index>-<nonce>/manifest`: written last, so a snapshot without one is not a snapshot."""

    index: int
    nonce: str
    chunks: int
    size_bytes: int
    sha256: str = Field(description="over the chunks' bytes in order")
    time: float
    epoch: int
    documents: int
    name: str | None = Field(default=None, description="named ones are kept until deleted")


class DocumentView(Stored):
    """`state/<path>`: one document for automation and people."""

    index: int = Field(description="index of the command that last changed it")
    document: dict[str, Any]


# --- nodes ----------------------------------------------------------------------------------------------------------


class Spec(Model):
    """What a node must be: which driver, how it is set up, and the document it shows or applies."""

    driver: str
    settings: dict[str, Any] = Field(default_factory=dict)
    document: dict[str, Any] = Field(default_factory=dict)


class Desired(Stored):
    """`desired/<node>`: (epoch, term, generation) orders orders; noded never obeys a lower one."""

    epoch: int
    term: int
    generation: int
    spec: Spec

    @property
    def order(self) -> tuple[int, int, int]:
        return (self.epoch, self.term, self.generation)


class Action(ActionRequest):
    """An action that is still to be done. `index`: the command that asked for it, one a node and command."""

    index: int = Field(ge=1)
    epoch: int = Field(default=1, description="the store's incarnation when it was asked for")
    actor: str = ""
    time: float = 0.0


class Actions(Stored):
    """`actions/<node>`: what the node is to do once, in this order. A view; absent when there is nothing."""

    epoch: int
    term: int
    pending: tuple[Action, ...] = ()


ActionState = Literal["started", "done", "failed", "lost"]
"""Lost: noded ended while it ran, so whether it took effect is not known."""


class ActionResult(Model):
    """What came of one action. Written as `started` before the action begins, so that nobody begins it again."""

    index: int = Field(ge=1)
    name: str
    state: ActionState
    result: Any = None
    error: str | None = None
    nonce: str = Field(description="of the noded that began it")
    boot: str = Field(default="", description="which start of the PC it was begun in")
    started: float = 0.0
    ended: float | None = None


class Acted(Stored):
    """`acted/<node>`: which actions the node has begun, and what came of those that are not closed yet.

    Written by noded, comparing its own `alive`, `actions/<node>` and `epoch` before an action begins. Outlives the
    node: no action with an index up to `floor` is ever begun again.
    """

    node: str
    epoch: int
    floor: int = 0
    results: tuple[ActionResult, ...] = ()


class Alive(Stored):
    """`alive/<node>`: which noded drives this node; hangs on its lease."""

    host_id: str
    nonce: str
    host: str
    pid: int = 0
    since: float = 0.0


Phase = Literal["idle", "applying", "ready", "retrying", "failed"]


class Status(Stored):
    """`status/<node>`: what the node did last; outlives the node. Written comparing the writer's own `alive`."""

    node: str
    nonce: str = Field(description="of the noded that wrote it")
    host: str
    epoch: int = 0
    term: int = 0
    observed_generation: int = Field(default=0, description="generation of the desired state it last acted on")
    phase: Phase
    reason: str = Field(default="", description="why it did what it did last, one sentence")
    actual: dict[str, Any] = Field(default_factory=dict, description="what the driver found")
    error: str | None = None
    warning: str | None = Field(default=None, description="what else is wrong, though the node may be as it must be")
    attempts: int = Field(default=0, description="failed attempts in a row at this generation")
    driver: str | None = None
    time: float = 0.0

    def same_but_for_time(self, other: Status | None) -> bool:
        """Whether `other` differs from this in nothing but its time."""
        return other is not None and self.model_copy(update={"time": other.time}) == other


# --- configuration --------------------------------------------------------------------------------------------------

Labels = dict[str, str]


class DriverConfig(Model):
    """Which driver a node has, and its settings (what they are is the driver's to say)."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


class MasterConfig(Model):
    """A PC that may be master."""

    address: str = ""
    priority: Annotated[int, Field(ge=0, le=100)] = 0


class NodeConfig(Model):
    """A PC that runs the application."""

    address: str = ""
    position: tuple[int, int] | None = Field(default=None, description="row and column, from 0")
    labels: Labels = Field(default_factory=dict)
    driver: DriverConfig | None = None
    document: dict[str, Any] = Field(default_factory=dict, description="values under the node's own document")


class GroupConfig(Model):
    """A set of nodes: those with all labels of `match`, and those named in `nodes`."""

    match: Labels = Field(default_factory=dict)
    nodes: tuple[str, ...] = ()
    document: dict[str, Any] = Field(default_factory=dict, description="values under those of its nodes")


class Defaults(Model):
    """What holds for every node that says nothing else."""

    driver: DriverConfig | None = None
    document: dict[str, Any] = Field(default_factory=dict)


NAMED_SECTIONS = {"masters": "master", "nodes": "node", "groups": "group"}
"""Sections of an inventory whose keys must be names (`check_name`), and what each key names."""
_NAMES_UNCHECKED = object()


class Inventory(Stored):
    """The configuration: PCs, groups, drivers, defaults, settings."""

    masters: dict[str, MasterConfig] = Field(default_factory=dict)
    nodes: dict[str, NodeConfig] = Field(default_factory=dict)
    groups: dict[str, GroupConfig] = Field(default_factory=dict)
    defaults: Defaults = Field(default_factory=Defaults)
    settings: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def without_name_check(cls, fields: Any) -> Self:
        """The inventory of a configuration that is part of the journal already, or is only shown."""
        # Earlier releases let any name in by etcd endpoints, so old journals and snapshots may hold names such as
        # `../up`. What was committed must be replayed by every replica: refusing it here would stop all masters. So
        # replay and snapshots read it by this method, and it stays in force until another one is adopted. Whatever
        # brings a configuration into force (applying it, adopting it) validates as usual and refuses such names.
        return cls.model_validate(fields, context=_NAMES_UNCHECKED)

    @model_validator(mode="after")
    def _names_allowed(self, info: ValidationInfo) -> Self:
        if info.context is _NAMES_UNCHECKED:
            return self
        for section, kind in NAMED_SECTIONS.items():
            for name in getattr(self, section):
                try:
                    check_name(kind, name)
                except Invalid as error:
                    raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        taken: dict[tuple[int, int], str] = {}
        for name, node in self.nodes.items():
            if node.position is None:
                continue
            if node.position in taken:
                raise ValueError(f"nodes {taken[node.position]} and {name} both have position {list(node.position)}")
            taken[node.position] = name
        for group, config in self.groups.items():
            for name in config.nodes:
                if name not in self.nodes:
                    raise ValueError(f"group {group} names node {name}, which is not among the nodes")
        return self

    def groups_of(self, node: str) -> tuple[str, ...]:
        """The groups that a node is in, in the inventory's order; empty for a node that it does not know."""
        config = self.nodes.get(node)
        if config is None:
            return ()
        labels = config.labels.items()
        return tuple(
            name
            for name, group in self.groups.items()
            if node in group.nodes or (group.match and group.match.items() <= labels)
        )

    def members_of(self, group: str) -> tuple[str, ...]:
        """The nodes of a group, in the inventory's order; `all` is every node. KeyError for an unknown group."""
        if group == "all" and "all" not in self.groups:
            return tuple(self.nodes)
        if group not in self.groups:
            raise KeyError(group)
        return tuple(name for name in self.nodes if group in self.groups_of(name))


MODELS: tuple[type[Stored], ...] = (
    Epoch, LeaderRecord, TermRecord, Candidate, Challenge, Answer, Paused, Head, Entry, Applied, Manifest, DocumentView,
    Desired, Alive, Status, Actions, Acted, ConfigRecord, Inventory,
)  # fmt: skip
"""Every model that is a key's value: published as JSON Schema."""
