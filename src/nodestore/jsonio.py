"""Re-exports `nodestore.support.jsonio` under the module name that earlier releases documented."""

from nodestore.support.jsonio import Document, Json, canonical, copy, dumps, loads

__all__ = ["Document", "Json", "canonical", "copy", "dumps", "loads"]
