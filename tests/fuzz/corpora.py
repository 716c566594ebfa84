"""The corpora: inputs that are kept. Each target has a file, with one bytes literal of Python a line, for reviews.

libFuzzer works with a directory of files, so a corpus is unpacked before a run, and packed again by `--keep`.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).with_name("corpus")
_INPUTS_MAX = 150
_INPUT_BYTES_MAX = 1_000


def path_of(target: str) -> Path:
    return FOLDER / f"{target}.txt"


def load(target: str) -> list[bytes]:
    """All inputs of a target; none if it has no corpus."""
    path = path_of(target)
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [_input(line) for line in lines if line and not line.startswith("#")]


def _input(line: str) -> bytes:
    value = ast.literal_eval(line)
    if not isinstance(value, bytes):
        raise TypeError(f"{line[:60]} is not a bytes literal")
    return value


def save(target: str, inputs: Iterable[bytes]) -> int:
    """Write the corpus of a target: the shortest inputs, in a fixed order. Return how many."""
    kept = sorted((item for item in set(inputs) if len(item) <= _INPUT_BYTES_MAX), key=lambda item: (len(item), item))
    kept = kept[:_INPUTS_MAX]
    path_of(target).write_text("".join(f"{item!r}\n" for item in kept), "utf-8", newline="\n")
    return len(kept)


def unpack(target: str, folder: Path) -> None:
    """Write the inputs of a target into a directory, one file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for item in load(target):
        (folder / hashlib.sha256(item).hexdigest()[:16]).write_bytes(item)


def files_in(folder: Path) -> list[bytes]:
    """The inputs in a directory."""
    return [path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()]
