"""The application names the document of a node, and the view of the node shows that document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from masterd.api.node_views import node_view
from masterd.application.contract import Application, HasNodeDocuments, node_document
from masterd.application.scenes import BuiltinApp
from masterd.state_machine.state import AdoptedConfig, State, VersionedDocument
from nodesdk import App, Command, Inventory, NodeSeen, Spec, Transaction, View
from nodestore.schema.models import ConfigRecord
from tests.support.fakes.masterd_parts import FakeMasterd
from tests.support.toy_app import ToyApp, inventory

STORED = {"nodes/n1": {"colour": "red"}, "tiles/n1": {"colour": "blue"}}
NODES = inventory("n1", "n2")


class Tiles(ToyApp):
    """Keeps the documents of its nodes under its own path; node `spare` has none."""

    def node_document(self, node: str) -> str | None:
        return None if node == "spare" else f"tiles/{node}"


class Silent:
    """An application with the required methods only."""

    name = "silent"

    def commands(self) -> Mapping[str, Command]:
        return {}

    def desired(self, config: Inventory, view: View, node: str) -> Spec | None:
        return None


class Hearing(Silent):
    """An application with another optional method."""

    name = "hearing"

    def node_changed(self, transaction: Transaction, node: str, seen: NodeSeen) -> None: ...


def _state() -> State:
    state = State()
    state.documents.update({path: VersionedDocument(1, value) for path, value in STORED.items()})
    return state


def _shown(application: Application, node: str) -> dict[str, Any] | None:
    return node_view(node, inventory(node), _state(), {}, {}, application)["document"]


@pytest.mark.parametrize(
    ("application", "node", "document"),
    [
        pytest.param(BuiltinApp(), "n1", {"colour": "red"}, id="built-in"),
        pytest.param(BuiltinApp(), "n2", {}, id="built-in, nothing stored"),
        pytest.param(ToyApp(), "n1", {"colour": "red"}, id="the same path"),
        pytest.param(Tiles(), "n1", {"colour": "blue"}, id="a path of its own"),
        pytest.param(Tiles(), "n2", {}, id="nothing stored there"),
        pytest.param(Tiles(), "spare", None, id="no document for this node"),
        pytest.param(Silent(), "n1", None, id="no documents of nodes"),
        pytest.param(Hearing(), "n1", None, id="no documents of nodes, though it hears of nodes"),
        pytest.param(App("app"), "n1", None, id="an App without the function"),
        pytest.param(App("app", extends=Tiles), "n1", {"colour": "blue"}, id="an App that extends another"),
    ],
)
def test_a_node_is_shown_with_its_document(
    application: Application, node: str, document: dict[str, Any] | None
) -> None:
    """The document at the path that the application names: empty if absent, None without a path."""
    assert _shown(application, node) == document


async def test_all_nodes_are_shown_alike() -> None:
    """The list of nodes and the view of one node have the same content."""
    masterd = FakeMasterd()
    state, record = masterd.replica.state, ConfigRecord(version=1, actor="test", time=0.0, inventory={})
    state.adopted = AdoptedConfig(record, 1, 1, NODES)
    state.documents.update(_state().documents)
    sources = replace(masterd.sources, application=Tiles())
    views = sources.node_views()
    await masterd.close()
    assert views == [sources.node_view("n1"), sources.node_view("n2")]
    assert [(view["name"], view["document"]) for view in views] == [("n1", {"colour": "blue"}), ("n2", {})]


@pytest.mark.parametrize("application", [BuiltinApp(), ToyApp(), Silent(), Hearing()], ids=lambda app: app.name)
def test_the_optional_part_is_recognised(application: Application) -> None:
    """An application has the protocol exactly if it names a path."""
    assert isinstance(application, HasNodeDocuments) is (node_document(application, "n1") is not None)
