"""A playlist player across a wall: one player, every node shows its part of the same item.

    masterd --app examples.apps.playlist:app ...
    nodectl command playlist.save '{"name": "morning", "items": ["sunrise.mp4", "hills.mp4"]}'
    nodectl command player.play '{"playlist": "morning"}'
    nodectl command player.next

State that a takeover must not lose (what plays, since when) is a document. What a node must show follows from it and
from the node's position alone, so it is the same on whichever PC it is derived.
Documents: `playlists/<name>`, `player`, and `dark`: which nodes show nothing, and why.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nodesdk import (
    App,
    ConfigChange,
    Document,
    Inventory,
    Name,
    NodeSeen,
    NotFound,
    Refused,
    Spec,
    Transaction,
    View,
)

PLAYER = "player"
DARK = "dark"

app = App("playlist", version="1.0")


@app.command("playlist.save")
def save(tx: Transaction, name: Name, items: Annotated[list[str], Field(min_length=1, max_length=1000)]) -> Document:
    """Save a playlist."""
    tx.put(f"playlists/{name}", {"items": items})
    return {"items": len(items)}


@app.command("player.play")
def play(tx: Transaction, playlist: str) -> Document:
    """Play a playlist from its beginning."""
    return _show(tx, playlist, 0)


@app.command("player.next")
def play_next(tx: Transaction) -> Document:
    """Go on to the next item."""
    player = tx.get(PLAYER)
    if player is None:
        raise Refused("nothing is playing")
    return _show(tx, player["playlist"], player["position"] + 1)


@app.command("player.stop")
def stop(tx: Transaction) -> None:
    """Show nothing."""
    tx.delete(PLAYER)


@app.desired
def desired(config: Inventory, view: View, node: str) -> Spec | None:
    """The item that plays, with the node's position."""
    driver, player = config.defaults.driver, view.get(PLAYER)
    if driver is None or player is None:
        return None
    row, column = config.nodes[node].position or (0, 0)
    document = {"item": player["item"], "since": player["since"], "row": row, "column": column}
    return Spec(driver=driver.name, settings=driver.settings, document=document)


@app.on_node_change
def note_dark(tx: Transaction, node: str, seen: NodeSeen) -> None:
    """Keep the document `dark` true, for dashboards and for the next shift."""
    why = None if seen.present else "it is off"
    if why is None and seen.status is not None and seen.status.phase == "failed":
        why = seen.status.error or "it failed"
    _set_dark(tx, {node: why})


@app.on_config_change
def forget_removed(tx: Transaction, change: ConfigChange) -> None:
    """A node that left the inventory is not dark: no change of it will ever be reported again."""
    _set_dark(tx, dict.fromkeys(change.removed))


def _set_dark(tx: Transaction, reasons: dict[str, str | None]) -> None:
    """Write only what differs: what is written is a command in the history."""
    before = tx.get(DARK) or {}
    after = {name: reason for name, reason in {**before, **reasons}.items() if reason is not None}
    if after != before:
        tx.put(DARK, after)


def _show(tx: Transaction, name: str, position: int) -> Document:
    playlist = tx.get(f"playlists/{name}")
    if playlist is None:
        raise NotFound(f"there is no playlist {name!r}")
    item = playlist["items"][position % len(playlist["items"])]
    player = {"playlist": name, "position": position, "item": item, "since": tx.now}
    tx.put(PLAYER, player)
    return player
