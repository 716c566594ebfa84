"""Asks the operator for confirmation before a command that disturbs the cluster."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from nodestore.errors import Invalid, Refused

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def confirm(question: str) -> None:
    """Ask `question` on stderr. Raises Refused if the answer is no, Invalid if stdin is not a terminal."""
    if not sys.stdin.isatty():
        raise Invalid("this needs a confirmation, and stdin is not a terminal: give --yes to go ahead")
    if not typer.confirm(question, err=True):
        raise Refused("cancelled: nothing was done")
