"""Asks the operator for confirmation before a command that disturbs the cluster."""

from __future__ import annotations

import sys

import typer

from nodestore.errors import Invalid, Refused


def confirm(question: str) -> None:
    """Ask `question` on stderr. Refused if the answer is no, Invalid if there is no terminal to ask on."""
    if not sys.stdin.isatty():
        raise Invalid("there is no terminal to ask for confirmation: give --yes to go ahead")
    if not typer.confirm(question, err=True):
        raise Refused("cancelled: nothing was done")
