"""The built-in application `scenes`: one document per node, and scenes, for users who write no code. Pure.

app = App("plant", extends=scenes)   # the commands of scenes next to one's own
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from nodesdk.application import Command, Transaction, View
from nodesdk.errors import Invalid, NotFound
from nodesdk.json_types import Document, Json
from nodesdk.models import DriverConfig, Inventory, Spec
from nodesdk.names import check_name

NODES = "nodes/"
SCENES = "scenes/"


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NodeSet(_Arguments):
    """Merge values into a node's document; null removes a key."""

    node: str
    values: dict[str, Any]


class NodePut(_Arguments):
    """Replace a node's document."""

    node: str
    document: dict[str, Any]


class NodeClear(_Arguments):
    """Remove a node's document, so that only the values of the configuration apply."""

    node: str


class SceneSave(_Arguments):
    """Save a scene: the given node documents, or, without any, those that the nodes have now."""

    name: str
    nodes: dict[str, dict[str, Any]] | None = Field(default=None)
    description: str = ""


class SceneApply(_Arguments):
    """Give the nodes of a group the documents of a scene, in one command."""

    name: str
    group: str = "all"


class SceneDelete(_Arguments):
    """Delete a scene. Nodes to which it was applied keep its documents."""

    name: str


class BuiltinApp:
    """The documents `nodes/<node>` and `scenes/<name>`. A node's document overrides its configuration's base values."""

    name = "scenes"
    _bases: tuple[Inventory, dict[str, tuple[DriverConfig | None, Document]]] | None = None
    """A cache for one configuration: for each node its driver, and the base values that its own document overrides."""

    def commands(self) -> Mapping[str, Command]:
        return _COMMANDS

    def node_document(self, node: str) -> str | None:
        return NODES + node

    def document_nodes(self, path: str, document: Document) -> list[str] | None:
        """A scene concerns the nodes that it names: whoever applies it may be allowed more than who saved it."""
        if path.startswith(NODES):
            return [path.removeprefix(NODES)]
        nodes = document.get("nodes")
        return list(nodes) if path.startswith(SCENES) and isinstance(nodes, dict) else None

    def desired(self, config: Inventory, view: View, node: str) -> Spec | None:
        driver, base = self._base(config, node)
        if driver is None:
            return None
        document = {**base, **(view.get(NODES + node) or {})}
        return Spec(driver=driver.name, settings=driver.settings, document=document)

    def _base(self, config: Inventory, node: str) -> tuple[DriverConfig | None, Document]:
        bases = self._bases
        if bases is None or bases[0] is not config:
            self._bases = bases = config, {}
        if node not in bases[1]:
            document: Document = dict(config.defaults.document)
            for group in config.groups_of(node):
                document.update(config.groups[group].document)
            document.update(config.nodes[node].document)
            bases[1][node] = _driver(config, node), document
        return bases[1][node]


def _driver(config: Inventory, node: str) -> DriverConfig | None:
    """The node's driver. If the default names the same one, the node's settings override the default's."""
    own, default = config.nodes[node].driver, config.defaults.driver
    if own is None or default is None or own.name != default.name:
        return own or default
    return DriverConfig(name=own.name, settings={**default.settings, **own.settings})


def _known_node(transaction: Transaction, node: str) -> str:
    if node not in transaction.config.nodes:
        raise NotFound(f"there is no node {node!r} in the configuration")
    return node


def _node_set(transaction: Transaction, arguments: NodeSet) -> Json:
    path = NODES + _known_node(transaction, arguments.node)
    document = transaction.get(path) or {}
    for key, value in arguments.values.items():
        if value is None:
            document.pop(key, None)
        else:
            document[key] = value
    transaction.put(path, document)
    return {"node": arguments.node, "document": document}


def _node_put(transaction: Transaction, arguments: NodePut) -> Json:
    transaction.put(NODES + _known_node(transaction, arguments.node), arguments.document)
    return {"node": arguments.node, "document": arguments.document}


def _node_clear(transaction: Transaction, arguments: NodeClear) -> Json:
    transaction.delete(NODES + _known_node(transaction, arguments.node))
    return {"node": arguments.node}


def _scene(transaction: Transaction, name: str) -> Document:
    scene = transaction.get(SCENES + name)
    if scene is None:
        raise NotFound(f"there is no scene {name!r}")
    return scene


def _scene_save(transaction: Transaction, arguments: SceneSave) -> Json:
    check_name("scene", arguments.name)
    nodes = arguments.nodes
    if nodes is None:
        nodes = {node: transaction.get(NODES + node) or {} for node in transaction.config.nodes}
    for node in nodes:
        _known_node(transaction, node)
    transaction.put(SCENES + arguments.name, {"nodes": nodes, "description": arguments.description})
    return {"scene": arguments.name, "nodes": sorted(nodes)}


def _scene_apply(transaction: Transaction, arguments: SceneApply) -> Json:
    scene = _scene(transaction, arguments.name)
    try:
        members = transaction.config.members_of(arguments.group)
    except KeyError:
        raise NotFound(f"there is no group {arguments.group!r} in the configuration") from None
    nodes = [node for node in members if node in scene["nodes"]]
    if not nodes:
        raise Invalid(f"scene {arguments.name!r} has no document for any node of group {arguments.group!r}")
    for node in nodes:
        transaction.put(NODES + node, scene["nodes"][node])
    return {"scene": arguments.name, "nodes": nodes}


def _scene_delete(transaction: Transaction, arguments: SceneDelete) -> Json:
    _scene(transaction, arguments.name)
    transaction.delete(SCENES + arguments.name)
    return {"scene": arguments.name}


_COMMANDS: Mapping[str, Command] = {
    "node.set": Command(NodeSet, _node_set, "merge values into a node's document", quick=True),
    "node.put": Command(NodePut, _node_put, "replace a node's document", quick=True),
    "node.clear": Command(NodeClear, _node_clear, "remove a node's document", quick=True),
    "scene.save": Command(SceneSave, _scene_save, "save a scene"),
    "scene.apply": Command(SceneApply, _scene_apply, "apply a scene to a group"),
    "scene.delete": Command(SceneDelete, _scene_delete, "delete a scene"),
}

scenes = BuiltinApp()
"""The instance to extend: `App(..., extends=scenes)`."""
