"""A user's application. It imports only nodesdk, and mypy and pyright check it in strict mode."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from nodesdk import (
    App,
    ConfigChange,
    Conflict,
    Document,
    Inventory,
    Json,
    Name,
    NodeSeen,
    NotFound,
    Refused,
    Spec,
    Transaction,
    View,
)
from nodesdk.scenes import scenes

app = App("plant", version="1.0", extends=scenes)

Litres = Annotated[float, Field(gt=0, le=10, description="how much")]


class Window(BaseModel):
    """From when to when a plant is watered, in hours."""

    begin: int = 6
    end: int = 20


@app.command(quick=True)
def water(tx: Transaction, plant: Name, litres: Litres = 0.5, window: Window = Window()) -> Document:
    """Water a plant."""
    before = tx.get(f"plants/{plant}")
    if before is not None and before["litres"] > 9:
        raise Refused(f"plant {plant!r} has enough")
    document = {"litres": litres, "at": tx.now, "hours": window.end - window.begin}
    tx.put(f"plants/{plant}", document)
    return document


@app.command("plant.pump")
def pump(tx: Transaction, node: str, seconds: int = 5) -> None:
    """Let a node pump for some seconds."""
    if node not in tx.config.nodes:
        raise NotFound(f"there is no node {node!r}")
    tx.act(node, "pump", {"seconds": seconds}, expires_s=30)


@app.command()
def names(tx: Transaction) -> Json:
    """Return all plants."""
    return [path.removeprefix("plants/") for path in tx.paths("plants/")]


@app.desired
def desired(config: Inventory, view: View, node: str) -> Spec | None:
    driver = config.defaults.driver
    if driver is None:
        return None
    shown = {path: view.get(path) for path in view.paths("plants/")}
    return Spec(driver=driver.name, settings=driver.settings, document={"plants": shown, "row": _row(config, node)})


def _row(config: Inventory, node: str) -> int:
    position = config.nodes[node].position
    return 0 if position is None else position[0]


@app.on_node_change
def note(tx: Transaction, node: str, seen: NodeSeen) -> None:
    if seen.status is not None and seen.status.phase == "failed":
        tx.put(f"failed/{node}", {"error": seen.status.error, "generation": seen.status.observed_generation})


@app.on_config_change
def adopt(tx: Transaction, change: ConfigChange) -> None:
    if len(change.after.nodes) > 100:
        raise Conflict("too many nodes")
    for node in (*change.removed, *change.changed):
        tx.delete(f"failed/{node}")


@app.node_document
def document(node: str) -> str | None:
    return f"failed/{node}"
