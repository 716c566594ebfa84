"""Derives the specs of all nodes for a term, ahead of it or at its start, also if the application hangs for a node."""

from __future__ import annotations
