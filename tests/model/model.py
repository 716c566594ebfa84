"""Election, fencing, commits and truncation as a model small enough to try every order of events.

Each function here is a step that some function of masterd takes, which it names. A step is one transaction at etcd
together with what its sender does with the answer. That is no restriction on where a process may be paused: what it
does with an answer changes only its own memory, so nobody can tell whether it did that at once or after a pause, and
between any two steps of one process the others, the network and the clients may take any number of theirs.

What is on its way: a sender that got no answer sends again, and leaves a copy behind that may land at any later time,
or never. A reply that was lost is such a copy that lands at once. Several copies of one transaction may be on their
way; that is also a takeover that was sent to two members.

Left out: views (they decide nothing), `paused`, configuration, clocks and grounds (any standby may try to take over at
any time, any lease may run out at any time, and no safety may depend on it; but suspicion, challenges and answers are
in it, see `suspicions`), and what a snapshot is made of (one transaction instead of many: without its manifest it does
not exist).

Symmetry: the two masterds are interchangeable, and commands are first sent in the order of their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.commits import begin_commit, commit_answered, commit_late, commit_refused, question, repeat
from tests.model.ends import crash, deposed, lease_lost, resign
from tests.model.housekeeping import snapshot, surroundings, truncation
from tests.model.setting import Action, Setting
from tests.model.suspicions import answer, challenge, hear_answer, suspect
from tests.model.takeovers import (
    begin_takeover,
    catch_up,
    claim,
    follow,
    prepare,
    takeover_answered,
    takeover_late,
    takeover_left_open,
)
from tests.model.world import LEADING, STANDBY, WON, World

Step = tuple[str, int, World]
"""What happens, in words, with {} for the masterd that does it; which one that is; and the world after it."""


def steps(setting: Setting, world: World) -> Iterator[Step]:
    """All that may happen next."""
    for number in (0, 1):
        for action in _ACTIONS[world.masterds[number].role]:
            for text, after in action(setting, world, number):
                yield text, number, after
    for text, after in surroundings(setting, world):
        yield text, 0, after


_ACTIONS: dict[int, tuple[Action, ...]] = {
    STANDBY: (
        begin_takeover, takeover_answered, takeover_late, takeover_left_open, claim, follow, crash, prepare,
        challenge, suspect, hear_answer,
    ),
    WON: (catch_up, lease_lost, crash),
    LEADING: (
        begin_commit, repeat, question, commit_answered, commit_late, commit_refused, resign, deposed, lease_lost,
        crash, snapshot, truncation, answer,
    ),
}  # fmt: skip
