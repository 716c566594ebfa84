"""A playlist player across a wall: one player, every node shows its part of the same item.

    masterd --app examples.apps.playlist:PlaylistApp ...
    nodectl command playlist.save '{"name": "morning", "items": ["sunrise.mp4", "hills.mp4"]}'
    nodectl command player.play '{"playlist": "morning"}'
    nodectl command player.next

State that a takeover must not lose (what plays, since when) is a document; what a node must show follows from it and
from the node's position alone, so it is the same on whichever PC it is computed.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, Field

from masterd.app import Command, NodeSeen, Transaction, View
from nodestore.errors import NotFound, Refused
from nodestore.jsonio import Json
from nodestore.models import Inventory, Spec

PLAYER = "player"
DARK = "dark"


class Save(BaseModel):
    """Save a playlist."""

    name: str
    items: list[str] = Field(min_length=1, max_length=1000)


class Play(BaseModel):
    """Play a playlist from its beginning."""

    playlist: str


class Nothing(BaseModel):
    """No arguments."""


class PlaylistApp:
    """Documents `playlists/<name>`, `player` and `dark`."""

    name = "playlist"

    def commands(self) -> Mapping[str, Command]:
        return {
            "playlist.save": Command(Save, self._save, "save a playlist"),
            "player.play": Command(Play, self._play, "play a playlist from its beginning"),
            "player.next": Command(Nothing, self._next, "go on to the next item"),
            "player.stop": Command(Nothing, self._stop, "show nothing"),
        }

    def desired(self, config: Inventory, view: View, node: str) -> Spec | None:
        driver, player = config.defaults.driver, view.get(PLAYER)
        if driver is None or player is None:
            return None
        row, column = config.nodes[node].position or (0, 0)
        document = {"item": player["item"], "since": player["since"], "row": row, "column": column}
        return Spec(driver=driver.name, settings=driver.settings, document=document)

    def node_changed(self, transaction: Transaction, node: str, seen: NodeSeen) -> None:
        """Keep the document `dark` true: which nodes show nothing, and why. For dashboards, and for the next shift."""
        dark = transaction.get(DARK) or {}
        why = None if seen.present else "it is off"
        if why is None and seen.status is not None and seen.status.phase == "failed":
            why = seen.status.error or "it failed"
        after = {name: reason for name, reason in {**dark, node: why}.items() if reason is not None}
        if after != dark:
            transaction.put(DARK, after)

    def _save(self, transaction: Transaction, args: Save) -> Json:
        transaction.put(f"playlists/{args.name}", {"items": args.items})
        return {"items": len(args.items)}

    def _play(self, transaction: Transaction, args: Play) -> Json:
        return self._show(transaction, args.playlist, 0)

    def _next(self, transaction: Transaction, _: Nothing) -> Json:
        player = transaction.get(PLAYER)
        if player is None:
            raise Refused("nothing is playing")
        return self._show(transaction, player["playlist"], player["position"] + 1)

    def _stop(self, transaction: Transaction, _: Nothing) -> Json:
        transaction.delete(PLAYER)
        return None

    def _show(self, transaction: Transaction, name: str, position: int) -> Json:
        playlist = transaction.get(f"playlists/{name}")
        if playlist is None:
            raise NotFound(f"there is no playlist {name!r}")
        item = playlist["items"][position % len(playlist["items"])]
        player = {"playlist": name, "position": position, "item": item, "since": transaction.now}
        transaction.put(PLAYER, player)
        return player
