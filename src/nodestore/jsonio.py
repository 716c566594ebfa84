"""Reading and writing JSON under the name that earlier releases documented; see `nodestore.support.jsonio`."""

from nodestore.support.jsonio import Document, Json, canonical, copy, dumps, loads

__all__ = ["Document", "Json", "canonical", "copy", "dumps", "loads"]
