"""The models that applications and drivers work with: Spec, Status, Inventory and its parts. Pure.

Frozen pydantic models. Unknown fields are kept, so that an older program passes on what a newer one wrote; a newer
major version `v` is refused. Times are seconds since the Unix epoch by the writer's clock: for people, never for
decisions.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from nodesdk.errors import Invalid
from nodesdk.names import PATTERN, check_name

SCHEMA_VERSION = 1

Name = Annotated[str, Field(pattern=f"^{PATTERN}$")]
"""A name by the rules of `check_name`, as the type of a command's argument: 1 to 63 letters, digits, '.', '_' or '-'.
It may be a segment of a document's path."""

Secret = Annotated[str, Field(json_schema_extra={"writeOnly": True})]
"""A text that is a secret, as the type of a command's argument. Fields of this name are secret in documents and
settings, too: see docs/security.md."""
SECRET_FIELDS_MAX = 200
_MARK = re.compile(r"[^.\s]+(\.[^.\s]+)*")


def check_secret_field(mark: str) -> str:
    """The mark of a secret field. Raises Invalid if it is neither a field's name nor names with dots between them."""
    if not isinstance(mark, str) or not _MARK.fullmatch(mark):
        raise Invalid(
            f"secret field {str(mark)[:40]!r}: expected the name of a field, such as pin, or the end of its path, such "
            "as player.pin"
        )
    return mark


class Model(BaseModel):
    """A frozen model that keeps unknown fields."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def encode(self) -> bytes:
        return self.model_dump_json().encode()


class Stored(Model):
    """The value of a key."""

    v: int = Field(default=SCHEMA_VERSION, strict=True, description="schema version (major)")

    @model_validator(mode="before")
    @classmethod
    def _refuse_newer(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("v"), int) and data["v"] > SCHEMA_VERSION:
            raise ValueError(
                f"written with schema version {data['v']}, this program reads up to {SCHEMA_VERSION}: upgrade it"
            )
        return data


class Spec(Model):
    """The spec of a node: a driver, the driver's settings, and the document that it applies."""

    driver: str
    settings: dict[str, Any] = Field(default_factory=dict)
    document: dict[str, Any] = Field(default_factory=dict)


class StoreMark(Model):
    """Identifies a store as a daemon remembers it, and how far the daemon has seen it.

    Another etcd cluster has another `cluster_id`. A restored backup may have the same one, but its revision goes back.
    """

    cluster_id: str = Field(description="etcd's cluster id, in hexadecimal digits")
    epoch: int = Field(description="epoch of the store")
    revision: int = Field(default=0, description="the highest revision that a linearizable read has shown")

    def is_same_store(self, other: StoreMark | None) -> bool:
        """Whether `other` names the same etcd cluster and epoch."""
        return other is not None and (self.cluster_id, self.epoch) == (other.cluster_id, other.epoch)


Phase = Literal["idle", "applying", "ready", "retrying", "failed"]


class Status(Stored):
    """`status/<node>`: the status of a node. Each write compares `alive/<node>` with the claim of its writer.

    The leader deletes the key an hour after the node has left the inventory.
    """

    node: str
    nonce: str = Field(description="nonce of the noded that wrote it")
    host: str
    epoch: int = 0
    term: int = 0
    observed_generation: int = Field(default=0, description="generation of the desired state it last acted on")
    phase: Phase
    reason: str = Field(default="", description="the reason for its last step, one sentence")
    actual: dict[str, Any] = Field(default_factory=dict, description="the actual state, as the driver inspected it")
    error: str | None = None
    warning: str | None = Field(default=None, description="another problem, which does not prevent convergence")
    attempts: int = Field(default=0, description="failed attempts and repairs since the state last settled")
    driver: str | None = None
    time: float = 0.0
    store: StoreMark | None = Field(default=None, description="the store that the noded remembers")

    def same_but_for_time(self, other: Status | None) -> bool:
        """Whether `other` is equal to this status apart from its time and from the revision of its store."""
        if other is None or (self.store is not None and not self.store.is_same_store(other.store)):
            return False
        return self.model_copy(update={"time": other.time, "store": other.store}) == other


Labels = dict[str, str]


class DriverConfig(Model):
    """The driver of a node, and the settings that the driver defines."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


class MasterConfig(Model):
    """A PC that may run a masterd."""

    address: str = ""
    priority: Annotated[int, Field(ge=0, le=100)] = 0


class NodeConfig(Model):
    """A PC on which noded drives the application."""

    address: str = ""
    position: tuple[int, int] | None = Field(default=None, description="row and column, from 0")
    labels: Labels = Field(default_factory=dict)
    driver: DriverConfig | None = None
    document: dict[str, Any] = Field(
        default_factory=dict, description="base values, which the node's own document overrides"
    )


class GroupConfig(Model):
    """A set of nodes: those that have all labels of `match`, and those named in `nodes`."""

    match: Labels = Field(default_factory=dict)
    nodes: tuple[str, ...] = ()
    document: dict[str, Any] = Field(
        default_factory=dict, description="base values, which the documents of its nodes override"
    )


class Defaults(Model):
    """The driver of every node that names none, and base values, which the documents of groups and nodes override."""

    driver: DriverConfig | None = None
    document: dict[str, Any] = Field(default_factory=dict)


NAMED_SECTIONS = {"masters": "master", "nodes": "node", "groups": "group"}
"""The sections of an inventory whose keys must pass `check_name`, and what a key of each section names."""
_NAMES_UNCHECKED = object()


class Inventory(Stored):
    """The content of a configuration: masters, nodes, groups, defaults, settings."""

    masters: dict[str, MasterConfig] = Field(default_factory=dict)
    nodes: dict[str, NodeConfig] = Field(default_factory=dict)
    groups: dict[str, GroupConfig] = Field(default_factory=dict)
    defaults: Defaults = Field(default_factory=Defaults)
    settings: dict[str, Any] = Field(default_factory=dict)
    secret_fields: tuple[str, ...] = Field(
        default=(),
        max_length=SECRET_FIELDS_MAX,
        description="fields of documents, settings and arguments that are secret: a name such as pin, or the end of a "
        "path such as player.pin",
    )

    @field_validator("secret_fields", mode="before")
    @classmethod
    def _readable_secret_fields(cls, value: Any, info: ValidationInfo) -> Any:
        """What is in the journal must be readable: a master of an earlier release accepts anything here."""
        if info.context is not _NAMES_UNCHECKED:
            return value
        marks = value if isinstance(value, list | tuple) else ()
        return [mark for mark in marks if isinstance(mark, str) and _MARK.fullmatch(mark)][:SECRET_FIELDS_MAX]

    @model_validator(mode="after")
    def _secret_fields_valid(self) -> Self:
        for mark in self.secret_fields:
            try:
                check_secret_field(mark)
            except Invalid as error:
                raise ValueError(str(error)) from None
        return self

    @classmethod
    def without_name_check(cls, fields: Any) -> Self:
        """The inventory of a configuration that is already in the journal, or is only displayed."""
        # Earlier releases accepted any name through etcd endpoints, so old journals and snapshots may hold names like
        # `../up`. Every replica must replay what was committed: refusing it here would stop all masters. So replay and
        # snapshots use this method, and such a configuration stays in force until another one is adopted. Applying and
        # adopting a configuration validate as usual and refuse such names.
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
        by_position: dict[tuple[int, int], str] = {}
        for name, node in self.nodes.items():
            if node.position is None:
                continue
            if node.position in by_position:
                other = by_position[node.position]
                raise ValueError(f"nodes {other} and {name} both have position {list(node.position)}")
            by_position[node.position] = name
        for group, config in self.groups.items():
            for name in config.nodes:
                if name not in self.nodes:
                    raise ValueError(f"group {group} names node {name}, which is not among the nodes")
        return self

    def groups_of(self, node: str) -> tuple[str, ...]:
        """The groups of a node, in the inventory's order; empty for an unknown node."""
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
        """The nodes of a group, in the inventory's order. `all` is every node. KeyError for an unknown group."""
        if group == "all" and "all" not in self.groups:
            return tuple(self.nodes)
        if group not in self.groups:
            raise KeyError(group)
        return tuple(name for name in self.nodes if group in self.groups_of(name))
