"""Reads and writes JSON: the public name of `nodestore.support.jsonio`."""

from nodestore.support.jsonio import Document, Json, canonical, copy, dumps, loads

__all__ = ["Document", "Json", "canonical", "copy", "dumps", "loads"]
