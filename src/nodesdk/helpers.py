"""Helpers for drivers: commands with a time limit, files, blocking calls, and processes that a killed noded left."""

from noded.drivers.support.command import FinishedCommand, environment, make_directory, resolve_python, run
from noded.drivers.support.leftovers import end as end_leftovers
from noded.drivers.support.leftovers import find as find_leftovers
from noded.drivers.support.offloop import OffLoop
from nodestore.support.atomic_files import write_atomic

__all__ = [
    "FinishedCommand",
    "OffLoop",
    "end_leftovers",
    "environment",
    "find_leftovers",
    "make_directory",
    "resolve_python",
    "run",
    "write_atomic",
]
