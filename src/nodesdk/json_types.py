"""Types of JSON values."""

from __future__ import annotations

from typing import Any

Json = Any
"""A JSON value: None, bool, int, float, str, list or dict with str keys."""

Document = dict[str, Any]
"""A document: a JSON object. Once it is part of a state, it is never changed in place."""
