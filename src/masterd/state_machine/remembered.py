"""Results of committed commands, remembered by command id to answer repeats. Pure.

A result of up to RESULT_BYTES_MAX is remembered itself. Of a larger one only the index is remembered: a repeat reads
the result from the journal. So the bytes that results take are bounded, in memory and in each snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from nodestore.errors import Garbage, IdReused
from nodestore.schema.records import JournalRecord
from nodestore.support.jsonio import Json, digest, dumps

RESULT_BYTES_MAX = 4 << 10
"""Results whose JSON is larger are remembered by index only."""
_FRAMING_BYTES = 64
"""Upper bound of what a snapshot adds to the ids and the result of one command: index, time, digest, punctuation."""


@dataclass(frozen=True, slots=True)
class RememberedResult:
    """The result of a committed command.

    digest: of its name and arguments; None if it was remembered by a version that recorded none. by_index: the result
    was too large to be kept and is read from the journal; `result` is None then. size: bytes in a snapshot, at most.
    """

    index: int
    time: float
    result: Json
    digest: str | None = None
    by_index: bool = False
    size: int = 0

    @classmethod
    def of(cls, record: JournalRecord) -> Self:
        """What is remembered of this command."""
        result_bytes = len(dumps(record.result))
        by_index = result_bytes > RESULT_BYTES_MAX
        return cls(
            record.index, record.time, None if by_index else record.result, request_digest(record.name, record.args),
            by_index, size_of(record.id, 0 if by_index else result_bytes),
        )  # fmt: skip


def size_of(command_id: str, result_bytes: int) -> int:
    """Upper bound of the bytes that a remembered result takes in a snapshot. The id is in it up to three times."""
    return 3 * len(dumps(command_id)) + result_bytes + _FRAMING_BYTES


def request_digest(name: str, args: Mapping[str, Any]) -> str | None:
    """Identifies a request by its name and arguments. None if the arguments have no canonical form."""
    try:
        return digest([name, dict(args)])
    except (Garbage, TypeError, RecursionError):  # entries of old versions may hold an infinite number
        return None


def check_same_request(command_id: str, first: str | None, name: str, args: Mapping[str, Any], index: int) -> None:
    """Raise IdReused if this request is not the one that the id was used for first. first: the digest of that one."""
    repeated = request_digest(name, args)
    if first is not None and repeated is not None and repeated != first:
        raise IdReused(
            f"command id {command_id} was used at index {index} for a command with another name or other arguments: "
            f"{name} was not run; send it with an id of its own"
        )
