"""The application of simulated clusters. Its results can be computed from the commands alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from masterd.application.contract import Command, NodeSeen, Transaction, View
from nodestore.errors import Refused
from nodestore.schema.models import Inventory, Spec
from nodestore.support.jsonio import Document, Json, copy

NODES = ("n1", "n2", "n3")


class Append(BaseModel):
    path: str
    item: str


class Put(BaseModel):
    path: str
    document: dict[str, Any]


class At(BaseModel):
    path: str


class Act(BaseModel):
    node: str
    expires_s: float = 5.0


class SimApp:
    """Growing lists, documents and actions. A list shows if a command took effect twice or in another order."""

    name = "simulated"

    def commands(self) -> Mapping[str, Command]:
        return {
            "append": Command(Append, self._append),
            "put": Command(Put, self._put),
            "delete": Command(At, self._delete),
            "refuse": Command(At, self._refuse),
            "act": Command(Act, self._act),
        }

    def desired(self, config: Inventory, view: View, node: str) -> Spec | None:
        """The spec shows the node's own document and the paths of all lists."""
        document = view.get(f"nodes/{node}")
        if document is None:
            return None
        return Spec(driver="sim", document={**config.defaults.document, **document, "lists": view.paths("lists/")})

    def node_changed(self, transaction: Transaction, node: str, seen: NodeSeen) -> None:
        phase = seen.status.phase if seen.status else None
        if (transaction.get(f"phases/{node}") or {}).get("phase") != phase:
            transaction.put(f"phases/{node}", {"phase": phase})

    def _append(self, transaction: Transaction, arguments: Append) -> Json:
        document = transaction.get(arguments.path) or {"items": []}
        document["items"].append(arguments.item)
        transaction.put(arguments.path, document)
        return {"place": len(document["items"])}

    def _put(self, transaction: Transaction, arguments: Put) -> Json:
        before = transaction.get(arguments.path)
        transaction.put(arguments.path, arguments.document)
        return {"before": before}

    def _delete(self, transaction: Transaction, arguments: At) -> Json:
        before = transaction.get(arguments.path)
        transaction.delete(arguments.path)
        return {"before": before}

    def _refuse(self, transaction: Transaction, arguments: At) -> Json:
        transaction.put(arguments.path, {"must": "not be there"})
        raise Refused("as asked")

    def _act(self, transaction: Transaction, arguments: Act) -> Json:
        transaction.act(arguments.node, "restart", expires_s=arguments.expires_s)
        return None


def result_by_hand(documents: dict[str, Document], name: str, args: Mapping[str, Any]) -> Json:
    """The correct result of a command on these documents, which are updated. Independent of the application's code."""
    before = documents.get(args.get("path", ""))
    match name:
        case "append":
            items = [*(before["items"] if before else []), args["item"]]
            documents[args["path"]] = {"items": items}
            return {"place": len(items)}
        case "put":
            documents[args["path"]] = copy(args["document"])
            return {"before": before}
        case "delete":
            documents.pop(args["path"], None)
            return {"before": before}
    return None
