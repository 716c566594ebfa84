"""Results of committed commands, remembered by command id to answer repeats. Pure.

A result of up to RESULT_BYTES_MAX is remembered itself. Of a larger one only the index is remembered: a repeat reads
the result from the journal. So the bytes that results take are bounded, in memory and in each snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from msgspec import Struct

from nodestore.errors import Garbage, IdReused
from nodestore.schema.records import JournalRecord
from nodestore.support.jsonio import Json, canonical, encoded_plain, loads, sha256

RESULT_BYTES_MAX = 4 << 10
"""Results whose JSON is larger are remembered by index only."""
_DIGEST_BYTES = 8
_FRAMING_BYTES = 64
"""Upper bound of what a snapshot adds to the ids and the result of one command: index, time, digest, punctuation."""


class RememberedResult(Struct, frozen=True, gc=False):
    """The result of a committed command. There are up to 200,000, so it is kept small, and away from the collector.

    encoded: the result as JSON. None if it was too large to be kept, and is read from the journal.
    digest: of its name and arguments; None if it was remembered by a version that recorded none.
    """

    index: int
    time: float
    encoded: bytes | None
    digest: bytes | None = None

    @classmethod
    def of(cls, record: JournalRecord, time: float) -> Self:
        """What is remembered of this command. time: that of the record."""
        encoded = encoded_plain(record.result)
        kept = encoded if len(encoded) <= RESULT_BYTES_MAX else None
        return cls(record.index, time, kept, request_digest(record.name, record.args))

    @property
    def by_index(self) -> bool:
        """Whether the result is read from the journal."""
        return self.encoded is None

    @property
    def result(self) -> Json:
        """The result, decoded anew at each call; None if it is read from the journal."""
        return None if self.encoded is None else loads(self.encoded)

    def size_under(self, command_id: str) -> int:
        """Upper bound of the bytes that it takes in a snapshot under this id. Computed anew, which saves memory."""
        return size_of(command_id, len(self.encoded or b""))


def size_of(command_id: str, result_bytes: int) -> int:
    """Upper bound of the bytes that a remembered result takes in a snapshot. The id is in it up to three times."""
    return 3 * len(encoded_plain(command_id)) + result_bytes + _FRAMING_BYTES


def request_digest(name: str, args: Mapping[str, Any]) -> bytes | None:
    """Identifies a request by its name and arguments. None if the arguments have no canonical form."""
    try:
        return sha256(canonical([name, dict(args)]))[:_DIGEST_BYTES]
    except (Garbage, TypeError, RecursionError):  # entries of old versions may hold an infinite number
        return None


def check_same_request(command_id: str, first: bytes | None, name: str, args: Mapping[str, Any], index: int) -> None:
    """Raise IdReused if this request is not the one that the id was used for first. first: the digest of that one."""
    repeated = request_digest(name, args)
    if first is not None and repeated is not None and repeated != first:
        raise IdReused(
            f"command id {command_id} was used at index {index} for a command with another name or other arguments: "
            f"{name} was not run; send it with an id of its own"
        )
