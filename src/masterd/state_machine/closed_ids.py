"""Closed ids: how the question for the outcome of a command is answered so that the answer stays true. Pure.

A client that lost the answer to a command cannot learn by a read that the command will have no effect: a copy of the
request may still wait in a leader's queue, in a standby that forwards it, or in a socket. So the question is a command
itself. It carries the id and the `after` of the command that it asks for, and runs in the order of the queue:

- If the id is known, the outcome is the recorded one.
- If the id is unknown and `after` is not below the floor, no command with this id has taken effect. The leader commits
  a record that **closes** the id, and answers after that commit. Each later copy finds the id and is refused.
- If `after` is below the floor, the id may have been forgotten: TooOld. If `after` is beyond the journal, the store was
  restored: Conflict. Neither writes anything.

The question never runs the command. Why its answer stays true:

- The command is in the queue of the same leader. Commands run one by one. If the command runs before the question, its
  record is found, in the same batch too. If it runs after the question, it is refused.
- The command is in the queue of a deposed leader, or its transaction is in doubt. A deposed leader commits nothing. A
  transaction that landed did so before the takeover, and the new leader has applied its entry before it serves.
- The command is in a standby or in a socket. It reaches a leader that has applied the closing record.
- The leader dies before the closing record is committed: no answer was given. It dies afterwards: the repeated question
  finds the record. Of two questions, the second one finds the record of the first.
- The closing record is forgotten as every other one. The floor is then at least its index, and so above `after`: a copy
  of the command is refused as too old. For this, `after` must not be beyond the journal when the id is closed.
- A late copy of the question changes no answer that was given: it finds what the first copy found or wrote, or is too
  old.

The answer is true only if the question has the `after` of the command, or a smaller one.

The record is one of an ordinary command, with the id that it closes and a name and arguments of its own. So every
release reads it, and a leader of a release that does not know closed ids does not run a copy of the command either. A
release that compares the request with the one that the id was used for refuses the copy (IdReused). Release 0.1.0 does
not compare them: it answers the copy with the result of the record, `{"closed": true}`.
"""

from __future__ import annotations

from masterd.state_machine.remembered import request_digest
from nodestore.schema.records import RecordStruct

COMMAND_CLOSE = "command.close"
"""Name of the records that close an id. No command of an application has it."""
_DIGEST = request_digest(COMMAND_CLOSE, {})


def is_closed(digest: bytes | None) -> bool:
    """Whether an id with this remembered digest is closed, rather than used by a command."""
    return digest is not None and digest == _DIGEST


def closing_record(
    command_id: str, actor: str, address: str, *, index: int, time: float, config_version: int
) -> RecordStruct:
    """The record that closes this id. actor, address: who asked, and from where."""
    return RecordStruct(
        index=index, id=command_id, actor=actor, time=time, name=COMMAND_CLOSE, args={}, result={"closed": True},
        config_version=config_version, address=address,
    )  # fmt: skip
