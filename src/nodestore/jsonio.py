"""Reading and writing JSON under its public name; see `nodestore.support.jsonio`."""

from nodestore.support.jsonio import Document, Json, canonical, copy, dumps, loads

__all__ = ["Document", "Json", "canonical", "copy", "dumps", "loads"]
