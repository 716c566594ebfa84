"""Views of nodes and commands for the API's answers, computed from memory. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, cast

from masterd.application.contract import Application, node_document
from masterd.state_machine.state import State
from nodestore.schema.api_types import CommandView, NodeView
from nodestore.schema.models import Alive, Desired, Inventory, Status
from nodestore.schema.records import JournalEntry, JournalRecord, MarkStruct, record_fields


def node_view(
    name: str,
    inventory: Inventory,
    state: State,
    statuses: Mapping[str, Status],
    alive: Mapping[str, Alive],
    application: Application,
    failures: Mapping[str, str] = MappingProxyType({}),
    orders: Mapping[str, Desired] | None = None,
    waiting: Iterable[str] = (),
) -> NodeView:
    """The view of one configured node.

    failures: by node, why the leader cannot derive its spec. orders: the keys `desired/<node>`; None: statuses count by
    generation alone. waiting: the nodeds that wait for the claim of this node, in words.
    """
    config = inventory.nodes[name]
    mark, status, living = state.specs.get(name), statuses.get(name), alive.get(name)
    driver = config.driver or inventory.defaults.driver
    problem = node_problem(mark, status, living) or _order_problem(name, mark, status, orders)
    if problem is None and name in failures:
        problem = f"keeps its last order: {failures[name]}"
    return {
        "name": name,
        "address": config.address,
        "position": None if config.position is None else list(config.position),
        "groups": list(inventory.groups_of(name)),
        "labels": config.labels,
        "driver": driver.name if driver else None,
        "document": _document(state, node_document(application, name)),
        "desired": None if mark is None else {"generation": mark.generation, "hash": mark.hash},
        "status": None if status is None else status.model_dump(mode="json"),
        "alive": None if living is None else living.model_dump(mode="json"),
        "waiting": list(waiting),
        "converged": problem is None,
        "problem": problem,
        "spec": None,
    }


def _document(state: State, path: str | None) -> dict[str, Any] | None:
    """The document at `path`, empty if there is none; None without a path."""
    if path is None:
        return None
    doc = state.documents.get(path)
    return {} if doc is None else doc.value


def node_problem(mark: MarkStruct | None, status: Status | None, alive: Alive | None) -> str | None:
    """Why a node has not converged, in a few words; None if it has."""
    if alive is None:
        return "no noded has ever reported" if status is None else "down: no noded is connected"
    if status is None:
        return "its noded has not reported yet"
    desired = mark.generation if mark else 0
    if status.error:
        return f"{status.phase}: {status.error}"
    if mark is not None and status.observed_generation != desired:
        return f"at generation {status.observed_generation}, generation {desired} is desired"
    if mark is not None and status.phase != "ready":
        return f"{status.phase}: {status.reason}" if status.reason else status.phase
    return None


def _order_problem(
    name: str, mark: MarkStruct | None, status: Status | None, orders: Mapping[str, Desired] | None
) -> str | None:
    """Why the status does not belong to the order in `desired/<node>`; None if it does.

    The same generation may name another spec in an earlier epoch. The present term does not count: a takeover rewrites
    no orders. The status of an older noded names no order, so its generation must suffice.
    """
    if mark is None or status is None or orders is None:
        return None
    order = orders.get(name)
    if order is None:
        return "its desired state is not in etcd"
    obeyed = (status.epoch, status.term, status.observed_generation)
    if status.epoch == 0 or order.generation != mark.generation or obeyed == order.order:
        return None
    return f"it has obeyed {_text(obeyed)}, but {_text(order.order)} is desired (epoch.term.generation)"


def _text(order: tuple[int, int, int]) -> str:
    return ".".join(map(str, order))


def command_view(record: JournalRecord, entry: JournalEntry) -> CommandView:
    """A command of the journal, with the term in which it was committed."""
    return cast(CommandView, {**record_fields(record), "epoch": entry.epoch, "term": entry.term})
